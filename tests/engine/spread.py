# SPDX-License-Identifier: Apache-2.0
"""What each process of a test with several does: toy runs on one backend, results from rank 0."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from diffnext.distributed import env as processes
from diffnext.engine.backends.deepspeed_config import merge_config
from tests.engine.runs import toy_run

CASES = {
    "ddp": ("ddp", {}),
    "fsdp": ("fsdp", {}),
    "fsdp_hybrid": ("fsdp", {"replicate": 2}),
    "zero0": ("deepspeed", {"stage": 0}),
    "zero1": ("deepspeed", {"stage": 1}),
    "zero2": ("deepspeed", {"stage": 2}),
    "zero3": ("deepspeed", {"stage": 3}),
}


def options_of(
    case: str, *, batch_size: int, accum: int, world: int, precision: str, max_norm: float
):
    backend, options = CASES[case]
    if backend == "deepspeed":
        config = merge_config(
            {"zero_optimization": {"stage": options["stage"]}},
            batch_size=batch_size,
            accum_steps=accum,
            world=world,
            precision=precision,
            max_norm=max_norm,
        )
        options = {"config": config}
    return {"backend": backend, "options": options}


def run(case: str, folder: Path, env: processes.Env, **settings):
    settings = {"precision": "float32", "max_norm": 1.0, "accum": 2, "batch_size": 2} | settings
    chosen = {key: settings[key] for key in ("precision", "max_norm", "accum", "batch_size")}
    if env.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    processes.barrier()
    trainer = toy_run(folder, env=env, **settings, **options_of(case, world=env.world, **chosen))
    trainer.train()


def main(folder: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    env = processes.init()
    for case in cases:
        run(case, folder / case / "whole", env)
        run(case, folder / case / "cut", env, stop_at=4)
        run(case, folder / case / "cut", env)
        run(case, folder / case / "bfloat16", env, precision="bfloat16", max_steps=3)
        run(case, folder / case / "bad", env, bad=[9], max_steps=3)
    (folder / f"done{env.rank}.json").write_text(json.dumps(cases))
    processes.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
