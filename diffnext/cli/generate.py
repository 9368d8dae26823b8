# SPDX-License-Identifier: Apache-2.0
"""Generate pictures and videos with a model, or with a snapshot of one that was trained.

Beside each file stands a .json with its prompt, its seed and all settings. A sample depends on the
settings and its own seed only: --seed for the first, one more for each that follows.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffnext import __version__
from diffnext.cli.generate_args import parse_args

if TYPE_CHECKING:
    from diffnext.pipelines.sampling import Job, Pipeline, Settings


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv, __doc__)
    try:
        written = run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is finished stays", file=sys.stderr)
        return 130
    print(written[0] if len(written) == 1 else f"{len(written)} files in {written[0].parent}")
    return 0


def run(args: argparse.Namespace) -> list[Path]:
    """Everything after the command line; heavy imports stand here so that --help is quick."""
    from diffnext.data.location import kind_of
    from diffnext.pipelines import sampling, sources

    source = sources.locate(args.model, args.snapshot)
    tasks = args.label or args.prompt or sampling.read_prompts(args.prompts)
    jobs = sampling.plan(tasks[: args.limit], samples=args.samples, seed=args.seed)
    folder, wanted = args.out, args.format
    if kind_of(args.out) is not None and not Path(args.out).is_dir():
        folder, wanted, jobs = one_file(Path(args.out), args.format, jobs)
    pipe = sources.load(source, device=args.device, dtype=args.dtype)
    settings = settings_of(args, pipe)
    files = sampling.Files(
        folder,
        suffix=sampling.suffix(wanted, settings.max_latent_length),
        fps=args.fps,
        origin={**vars(source), "diffnext": __version__},
    )
    return sampling.write_samples(pipe, jobs, settings, files, batch_size=args.batch_size)


def one_file(out: Path, wanted: str | None, jobs: list[Job]) -> tuple[str, str, list[Job]]:
    """Folder, format and job where --out names a file.

    Raises:
        ValueError: several samples, or another format, are asked for.
    """
    suffix = out.suffix[1:].lower()
    if len(jobs) > 1:
        raise ValueError(f"--out {out} is one file, and {len(jobs)} are made; name a folder")
    if wanted not in (None, suffix):
        raise ValueError(f"--out is {out} and --format is {wanted}; leave one of them out")
    return str(out.parent), suffix, [dataclasses.replace(jobs[0], name=out.stem)]


def settings_of(args: argparse.Namespace, pipe: Pipeline) -> Settings:
    """What the options ask of a pipeline."""
    from diffnext.pipelines import sampling

    return sampling.Settings(
        num_inference_steps=args.steps,
        num_diffusion_steps=args.diffusion_steps,
        guidance_scale=args.guidance_scale,
        min_guidance_scale=args.min_guidance_scale,
        guidance_trunc=args.guidance_trunc,
        guidance_renorm=args.guidance_renorm,
        flow_shift=args.flow_shift,
        max_latent_length=sampling.latent_length(
            pipe, num_frames=args.num_frames, latent=args.max_latent_length
        ),
        motion_flow=args.motion_flow,
        negative_prompt=args.negative_prompt,
        image=args.image,
    )
