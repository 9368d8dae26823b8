# SPDX-License-Identifier: Apache-2.0
"""Train the autoencoder of a model, of pictures or of videos: see docs/vae.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

SAVED_TYPES = ("float32", "float16", "bfloat16")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--input",
        required=True,
        metavar="FOLDER|shapes",
        help="media to learn from, or the shapes world",
    )
    add(
        "--output",
        required=True,
        help="folder that receives state, log and the finished autoencoder",
    )
    add(
        "--config",
        required=True,
        help="config.json of an autoencoder; its _class_name is what is built",
    )
    add(
        "--init",
        default="",
        metavar="VAE",
        help="start from these weights; pictures' go into videos too",
    )
    add("--size", type=int, default=64, help="side of the clips, pixels (default 64)")
    add(
        "--num-frames",
        type=int,
        default=1,
        help="frames of the longest clips, 4 k + 1; 1 for pictures",
    )
    add(
        "--crop",
        type=int,
        default=0,
        help="train on random squares of this side; 0 takes the whole",
    )
    add("--steps", type=int, default=10000, help="updates in all (default 10000)")
    add("--until", type=int, default=0, help="end after this many of them; 0 makes all")
    add("--batch-size", type=int, default=16, help="clips an update (default 16)")
    add("--lr", type=float, default=2e-3, help="top learning rate (default 2e-3)")
    add("--kl-weight", type=float, default=1e-4, help="weight of the divergence (default 1e-4)")
    add(
        "--adversarial-weight",
        type=float,
        default=0.0,
        help="weight of a patch discriminator (default 0)",
    )
    add("--adversarial-start", type=int, default=0, help="step at which that begins to count")
    add(
        "--ema",
        type=float,
        default=0.999,
        help="decay of the average of the weights (default 0.999)",
    )
    add("--seed", type=int, default=0, help="of weights, data and noise")
    add(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="go on from the state in --output",
    )
    add(
        "--save-every", type=int, default=500, help="steps between two states on disk (default 500)"
    )
    add(
        "--measure",
        type=int,
        default=256,
        help="held-out clips of the final measurement (default 256)",
    )
    add("--save-dtype", choices=SAVED_TYPES, default="float32", help="of the finished weights")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the forward pass")
    add("--workers", type=int, default=2, help="threads that make batches ahead (default 2)")
    add("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, measure, export. Returns the exit code."""
    args = parse_args(argv)
    try:
        run(args)
    except (OSError, ValueError) as error:
        print(f"train_vae: {error}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> None:
    """Everything after the command line; heavy imports stand here so that --help is quick."""
    import torch

    from diffnext.engine.vae import models, sources
    from diffnext.engine.vae.loop import Settings, Trainer
    from diffnext.utils.seeding import mix

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
        Settings(
            steps=args.steps,
            lr=args.lr,
            kl_weight=args.kl_weight,
            adversarial_weight=args.adversarial_weight,
            adversarial_start=args.adversarial_start,
            ema=args.ema,
            seed=args.seed,
        ),
        described=describe(args, config),
        device=pick_device(args.device),
        dtype=getattr(torch, args.dtype),
    )
    train(trainer, folder, args)
    finish(trainer, folder, args)


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


def pick_device(name: str):
    """The device called `name`; "auto" takes a GPU if there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


if __name__ == "__main__":
    sys.exit(main())
