# SPDX-License-Identifier: Apache-2.0
"""Sample many prompts with a pipeline and write the results to files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from diffnext.models.autoencoders.modeling_utils import strides
from diffnext.pipelines.nova.pipeline_nova import NOVAPipeline
from diffnext.pipelines.nova.pipeline_nova_c2i import NOVAC2IPipeline
from diffnext.utils.export_utils import export_to_image, export_to_video

Pipeline = NOVAPipeline | NOVAC2IPipeline


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Arguments of a pipeline that all samples share; see `NOVAPipeline`."""

    num_inference_steps: int = 64
    num_diffusion_steps: int = 25
    guidance_scale: float = 5.0
    min_guidance_scale: float | None = None
    guidance_trunc: float = 0.0
    guidance_renorm: float = 1.0
    flow_shift: float | None = None
    max_latent_length: int = 1
    motion_flow: float = 5.0
    negative_prompt: str | None = None
    image: str | None = None  # path

    def arguments(self, pipe: Pipeline) -> dict[str, Any]:
        """As keyword arguments of `pipe`."""
        options = dataclasses.asdict(self)
        if isinstance(pipe, NOVAC2IPipeline):
            for name in ("image", "negative_prompt"):
                if options[name] is not None:
                    raise ValueError(f"{name} is {options[name]!r}; a model of classes takes none")
            for name in ("max_latent_length", "motion_flow", "negative_prompt", "image"):
                del options[name]
        elif self.image is not None:
            if self.max_latent_length == 1:
                raise ValueError(
                    f"image {self.image} is the first frame of a video, and one frame is wanted; "
                    "ask for more"
                )
            options["image"] = Image.open(self.image)
        return options


@dataclass(frozen=True)
class Job:
    """One sample."""

    name: str  # of its file, without suffix
    prompt: str | int
    seed: int


@dataclass(frozen=True)
class Files:
    """Where samples are written, and as what."""

    folder: str
    suffix: str  # png, mp4 or gif
    fps: float  # of videos
    origin: Mapping[str, Any]  # what else the .json files should say, such as the model


def latent_length(pipe: Pipeline, *, num_frames: int | None, latent: int | None) -> int:
    """Latent frames of a sample: what is asked for, or what the model was made for."""
    stride = strides(pipe.vae)[0]
    if latent is None and num_frames is None:
        return int(pipe.transformer.config.video_base_size[0])
    if num_frames is not None:
        if (num_frames - 1) % stride:
            raise ValueError(f"--num-frames is {num_frames}; {stride} k + 1 are possible")
        latent = (num_frames - 1) // stride + 1
    if latent < 1:
        raise ValueError(f"--max-latent-length is {latent}; 1 or more is wanted")
    if latent > 1 and isinstance(pipe, NOVAC2IPipeline):
        raise ValueError("a model of classes makes pictures; ask for one frame")
    return latent


def suffix(wanted: str | None, length: int) -> str:
    """Suffix of the files: png for one latent frame, else mp4 or gif."""
    possible = ("png",) if length == 1 else ("mp4", "gif")
    if wanted is not None and wanted not in possible:
        what = "pictures" if length == 1 else "videos"
        raise ValueError(f"format is {wanted}, but {what} are made; {possible} are possible")
    return wanted or possible[0]


def read_prompts(path: str) -> list[str]:
    """Prompts of a file: one a line, or in .jsonl the "prompt" of each line."""
    prompts = []
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):  # a prompt may hold other ends of lines
        if not line.strip():
            continue
        if Path(path).suffix in (".jsonl", ".json"):
            row = _json(line, f"{path} line {number}")
            if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
                raise ValueError(f'{path} line {number} is {line!r}; {{"prompt": "..."}} is wanted')
            line = row["prompt"]
        prompts.append(line.strip())
    if not prompts:
        raise ValueError(f"{path} holds no prompt; one a line is wanted")
    return prompts


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def plan(prompts: Sequence[str | int], *, samples: int, seed: int) -> list[Job]:
    """One job a sample; the samples of a prompt follow one another, seeds count up."""
    jobs = []
    for prompt in prompts:
        for _ in range(samples):
            jobs.append(Job(f"{len(jobs):05d}", prompt, seed + len(jobs)))
    return jobs


def write_samples(
    pipe: Pipeline,
    jobs: Sequence[Job],
    settings: Settings,
    files: Files,
    *,
    batch_size: int,
    progress: bool = True,
) -> list[Path]:
    """Sample all jobs and write each with what it was made from beside it.

    Args:
        batch_size: samples at a time.
        progress: show bars on a terminal.

    Returns:
        The paths of pictures or videos.
    """
    _check_prompts(pipe, jobs)
    hidden = None if progress else True  # None: where there is no terminal
    Path(files.folder).mkdir(parents=True, exist_ok=True)
    pipe.set_progress_bar_config(desc="sets of tokens", leave=False, disable=hidden)
    arguments = settings.arguments(pipe)
    made_by = {**files.origin, **_made_by(pipe), "settings": dataclasses.asdict(settings)}
    paths = []
    with tqdm(total=len(jobs), desc="samples", disable=hidden) as bar:
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            # on the CPU, so that a seed means the same on every device
            generators = [torch.Generator().manual_seed(job.seed) for job in batch]
            prompts = [job.prompt for job in batch]
            output = pipe(prompts, generator=generators, output_type="np", **arguments)
            for job, frames in zip(batch, output.frames, strict=True):
                paths.append(_write(files, job, frames, made_by))
                bar.update()
    return paths


def _made_by(pipe: Pipeline) -> dict[str, str]:
    """What else a sample depends on: rounding differs between devices, types and versions."""
    return {
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "device": str(pipe.device),
        "torch": torch.__version__,
    }


def _check_prompts(pipe: Pipeline, jobs: Sequence[Job]) -> None:
    wanted, what = (str, "a text: use --prompt")
    if isinstance(pipe, NOVAC2IPipeline):
        wanted, what = (int, "a class: use --label")
    for job in jobs:
        if not isinstance(job.prompt, wanted):
            raise ValueError(f"prompt is {job.prompt!r}; {type(pipe).__name__} takes {what}")


def _write(files: Files, job: Job, frames: Any, made_by: Mapping[str, Any]) -> Path:
    """Write uint8 (T, H, W, 3), and beside it what it was made from."""
    path = Path(files.folder) / f"{job.name}.{files.suffix}"
    record = {"prompt": job.prompt, "seed": job.seed, **made_by}
    if files.suffix == "png":
        export_to_image(frames[0], str(path))
    else:
        export_to_video(frames, str(path), fps=files.fps)
        record["fps"] = files.fps
    text = json.dumps(record, indent=2, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    return path
