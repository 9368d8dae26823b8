# SPDX-License-Identifier: Apache-2.0
"""Assemble the two small model folders of assets/: tokenizer, text encoder, scheduler, configurations.

What a folder has already is kept, so that a changed table below costs seconds. The autoencoders come
from tools/train_vae.py; docs/vae.md has the commands.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from shapes_text import TEXT_WIDTH, probe, train_text_encoder, write_json, write_tokenizer

from diffnext.models.autoencoders.kinds import KINDS

TEXT_LENGTH = 20  # tokens; the longest caption has 16
LATENT_CHANNELS = 4
TRANSFORMER = {
    "_class_name": "NOVATransformer3DModel",
    "arch": ["vit_d2w192", "vit_d6w192", "mlp_d3w192"],
    "image_base_size": [4, 4],
    "image_dim": LATENT_CHANNELS,
    "image_size": 64,
    "image_stride": 8,
    "rotary_pos_embed": False,
    "text_token_dim": TEXT_WIDTH,
    "text_token_len": TEXT_LENGTH,
    "video_base_size": [1, 2, 2],
    "video_mixer_rank": None,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [16, 24, 48, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": LATENT_CHANNELS,
    "layers_per_block": 1,
    "mid_block_add_attention": False,
    "norm_num_groups": 1,
    "sample_size": 64,
}
VIDEO_VAE = {
    "_class_name": "AutoencoderKLOpenSora",
    "act_fn": "silu",
    "block_out_channels": [16, 24, 48, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2 + ["DownEncoderBlock3D"] * 2,
    "up_block_types": ["UpDecoderBlock3D"] * 4,
    "latent_channels": LATENT_CHANNELS,
    "layers_per_block": 1,
    "norm_num_groups": 1,
    "sample_size": 64,
}
MODELS = {
    "nova_shapes": {"transformer": TRANSFORMER, "vae": VAE},
    "nova_shapes_video": {
        "transformer": {**TRANSFORMER, "video_base_size": [5, 2, 2], "video_mixer_rank": 16},
        "vae": VIDEO_VAE,
    },
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_noise_class_name": "FlowMatchEulerDiscreteScheduler",
    "_sample_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--output",
        default="assets",
        help="where nova_shapes and nova_shapes_video are (default assets)",
    )
    add("--image-vae", default="", help="folder of tools/train_vae.py to take the pictures' from")
    add("--video-vae", default="", help="the same for videos")
    add("--text-steps", type=int, default=800, help="updates of the text encoder (default 800)")
    add("--retrain-text", action="store_true", help="make tokenizer and text encoder anew")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write both folders. Returns the exit code."""
    args = parse_args(argv)
    output = Path(args.output)
    first = output / next(iter(MODELS))
    if args.retrain_text or not (first / "text_encoder" / "config.json").exists():
        write_tokenizer(first / "tokenizer")
        train_text_encoder(first, args.text_steps)
    print(f"linear probes of held-out captions: {probe(first)}")
    given = dict(zip(MODELS, (args.image_vae, args.video_vae), strict=True))
    for name, parts in MODELS.items():
        write_model(output / name, parts, given[name], shared=first)
    return 0


def write_model(folder: Path, parts: dict, vae: str, *, shared: Path) -> None:
    """Write everything of one model folder but what is trained."""
    for part in ("tokenizer", "text_encoder"):
        if folder != shared:
            shutil.copytree(shared / part, folder / part, dirs_exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "transformer" / "config.json", parts["transformer"])
    write_json(folder / "model_index.json", model_index(parts["vae"]["_class_name"]))
    target = folder / "vae"
    if vae:
        target.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "diffusion_pytorch_model.safetensors", "quality.json"):
            shutil.copyfile(Path(vae) / name, target / name)
    elif not (target / "config.json").exists():
        write_json(target / "config.json", parts["vae"])


def model_index(vae: str) -> dict:
    """Which class each component has and where it is."""
    return {
        "_class_name": "NOVAPipeline",
        "_diffusers_version": "0.32.0",
        "scheduler": ["diffnext.schedulers.scheduling_cfm", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["diffnext.models.text_encoders.phi", "PhiEncoderModel"],
        "tokenizer": ["transformers", "CodeGenTokenizerFast"],
        "transformer": ["diffnext.models.transformers.transformer_nova", "NOVATransformer3DModel"],
        "vae": [KINDS[vae].module, vae],
    }


if __name__ == "__main__":
    sys.exit(main())
