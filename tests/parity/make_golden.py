# SPDX-License-Identifier: Apache-2.0
"""Write the part of the recorded network that is committed, so that a clone alone checks parity.

    python -m tests.parity.make_golden

The smallest recorded checkpoint, that of classes, is copied with its inputs and outputs; of its
autoencoder only the configuration, since neither training nor sampling of latents needs more.
"""

from __future__ import annotations

import shutil

from tests.parity.recorded import FOLDER, HERE

GOLDEN = HERE / "golden" / "c2i"
FILES = (
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vectors.safetensors",
)


def main() -> None:
    for name in FILES:
        target = GOLDEN / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FOLDER / "c2i" / name, target)
        print(f"{target} {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
