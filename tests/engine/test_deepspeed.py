# SPDX-License-Identifier: Apache-2.0
"""With DeepSpeed a network computes in the precision of the run, on a GPU as on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_stage_computes_in_the_precision_of_the_run():
    precisions = ["bfloat16", "float32"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
    command = [sys.executable, "-m", "tests.engine.low_precision", *precisions]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(row["precision"], row["stage"], row["role"]) for row in found] == [
        (precision, stage, role)
        for precision in precisions
        for stage in range(4)
        for role in ("student", "teacher")
    ]
    for row in found:
        precision = row["precision"]
        split = row["role"] == "student" and row["stage"] > 0
        master = precision if split else "float32"
        assert row["types"] == [f"torch.{precision}", f"torch.{master}"], row
