# SPDX-License-Identifier: Apache-2.0
"""Train the autoencoder of a model, of pictures or of videos: see docs/vae.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from diffnext.cli.common import guarded
from diffnext.cli.devices import pick_device

SAVED_TYPES = ("float32", "float16", "bfloat16")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    required = parser.add_argument_group("required")
    for name, what in (
        ("--input", "folder of media to learn from, or shapes for the shapes world"),
        ("--output", "folder that receives state, log and the finished autoencoder"),
        ("--config", "config.json of an autoencoder; its _class_name is what is built"),
    ):
        required.add_argument(name, required=True, default=argparse.SUPPRESS, help=what)
    add_media(parser.add_argument_group("what is trained on").add_argument)
    add_training(parser.add_argument_group("how it is trained").add_argument)
    add_run(parser.add_argument_group("how it is run").add_argument)
    return parser.parse_args(argv)


def add_media(add: Callable[..., Any]) -> None:
    add("--size", type=int, default=64, help="side of the clips, pixels")
    add("--num-frames", type=int, default=1, help="of the longest clips, 4 k + 1; 1: pictures")
    add("--crop", type=int, default=0, help="side of random squares to train on; 0: the whole")
    add("--batch-size", type=int, default=16, help="clips an update")
    add("--workers", type=int, default=2, help="threads that make batches ahead")
    add("--seed", type=int, default=0, help="of weights, data and noise")


def add_training(add: Callable[..., Any]) -> None:
    add("--init", default="", metavar="VAE", help="weights to start from; pictures' fit videos too")
    add("--steps", type=int, default=10000, help="updates in all")
    add("--until", type=int, default=0, help="end after this many of them; 0 makes all")
    add("--lr", type=float, default=2e-3, help="top learning rate")
    add("--kl-weight", type=float, default=1e-4, help="weight of the divergence")
    add("--adversarial-weight", type=float, default=0.0, help="weight of a patch discriminator")
    add("--adversarial-start", type=int, default=0, help="step at which that begins to count")
    add("--ema", type=float, default=0.999, help="decay of the average of the weights")


def add_run(add: Callable[..., Any]) -> None:
    add("--resume", choices=("auto", "never"), default="auto", help="go on from --output's state")
    add("--save-every", type=int, default=500, help="steps between two states on disk")
    add("--measure", type=int, default=256, help="held-out clips of the final measurement")
    add("--save-dtype", choices=SAVED_TYPES, default="float32", help="of the finished weights")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the forward pass")
    add("--quiet", action="store_true", help="no progress bar")


def main(argv: list[str] | None = None) -> int:
    """Train, measure, export. Returns the exit code."""
    return guarded("train_vae", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Everything after the command line; heavy imports stand here so that --help is quick."""
    import torch

    from diffnext.engine.vae import models, sources
    from diffnext.engine.vae.loop import Settings, Trainer
    from diffnext.utils.mixing import mix

    device, dtype = pick_device(args.device, args.dtype)
    check_sizes(args.size, args.crop)
    config = models.read_config(args.config)
    lengths = clip_lengths(args.num_frames, config["_class_name"] in models.VIDEO)
    folder = prepare_output(args)
    source = sources.open_source(args.input, args.size, args.num_frames)
    batches = sources.Batches(
        source,
        batch_size=args.batch_size,
        seed=args.seed,
        lengths=lengths,
        crop=args.crop,
        workers=args.workers,
    )
    torch.manual_seed(mix(args.seed, "weights"))
    vae = models.build(config)
    start(vae, args.init)
    trainer = Trainer(
        vae,
        batches,
        Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)}),
        described=describe(args, config),
        device=torch.device(device),
        dtype=dtype,
    )
    train(trainer, folder, args)
    finish(trainer, folder, args)
    return 0


def start(vae, init: str) -> None:
    """Give a fresh autoencoder its first weights."""
    from diffnext.engine.vae import initial, models

    initial.start_linear(vae)
    if init:
        kept = models.load_initial(vae, init)
        print(f"started from {init}; {len(kept)} tensors are fresh {kept[:4]}")


def train(trainer, folder: Path, args: argparse.Namespace) -> None:
    """Run the loop under a progress bar that shows remaining time."""
    from tqdm import tqdm

    trainer.restore(folder)
    with tqdm(
        total=args.until or args.steps,
        initial=trainer.finished,
        unit="step",
        disable=args.quiet,
        mininterval=1.0,
    ) as bar:

        def after_step(step: int, metrics: dict) -> None:
            bar.update(1)
            if step % 20 == 0:
                shown = ("loss/reconstruction", "loss/kl")
                bar.set_postfix({key.split("/")[1]: f"{metrics[key]:.4f}" for key in shown})

        until = args.until or args.steps
        trainer.run(folder, save_every=args.save_every, until=until, after_step=after_step)


def finish(trainer, folder: Path, args: argparse.Namespace) -> None:
    """Normalise the averaged weights, write them, read them back and measure what was written."""
    import torch

    from diffnext.engine.vae import export
    from diffnext.engine.vae.sources import Batches

    vae = trainer.average
    source = trainer.batches.source
    whole = Batches(source, batch_size=8, seed=args.seed, lengths=(args.num_frames,))
    export.normalise(vae, whole, count=32)
    export.save(vae, folder, dtype=getattr(torch, args.save_dtype))
    written = type(vae).from_pretrained(folder, torch_dtype=torch.float32).to(trainer.device)
    quality = export.measure(written, source, count=args.measure, num_frames=args.num_frames)
    export.write_report(
        folder / "quality.json", quality, size=args.size, num_frames=args.num_frames
    )
    print(
        f"{folder}: PSNR {quality.psnr:.2f} dB ({quality.psnr_sample:.2f} dB from draws) on "
        f"{quality.clips} held-out clips; latents have deviation {quality.latent_std:.3f}, "
        f"their posterior {quality.posterior_std:.3f}"
    )


def clip_lengths(num_frames: int, video: bool) -> tuple[int, ...]:
    """Numbers of frames to train on: all of 4 k + 1 up to the longest, pictures included.

    Raises:
        ValueError: frames for an autoencoder of pictures, or a number that is not 4 k + 1.
    """
    if num_frames == 1:
        return (1,)
    if not video:
        raise ValueError(
            f"--num-frames {num_frames} needs an autoencoder of videos; this one takes 1"
        )
    if num_frames % 4 != 1:
        raise ValueError(
            f"--num-frames is {num_frames}; wanted 4 k + 1, such as {num_frames // 4 * 4 + 1}"
        )
    return tuple(range(1, num_frames + 1, 4))


def check_sizes(size: int, crop: int) -> None:
    """Sides must be multiples of 8, the factor between pixels and latents, and the crop must fit."""
    if size < 8 or size % 8:
        raise ValueError(f"--size is {size}; wanted a multiple of 8")
    if crop % 8 or not 0 <= crop <= size:
        raise ValueError(f"--crop is {crop}; wanted 0, or a multiple of 8 up to --size {size}")


def describe(args: argparse.Namespace, config: dict) -> dict:
    """What a resumed run must share with the run that it goes on with."""
    keys = ("input", "init", "size", "num_frames", "crop", "batch_size", "dtype")
    measured = ("_diffusers_version", "scaling_factor", "shift_factor")
    shape = {key: value for key, value in config.items() if key not in measured}
    return {
        **{key: getattr(args, key) for key in keys},
        "config": json.dumps(shape, sort_keys=True),
    }


def prepare_output(args: argparse.Namespace) -> Path:
    """Make the output folder; with --resume never, an older training in it is removed."""
    from diffnext.engine.vae import state

    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    if args.resume == "never":
        for name in (state.STATE, state.METRICS):
            (folder / name).unlink(missing_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
