# SPDX-License-Identifier: Apache-2.0
"""A node with other options or files is named before a run begins."""

import threading
from concurrent.futures import ThreadPoolExecutor

from diffnext.cli.train_args import facts, parse_args, read_config
from diffnext.distributed import env as processes
from diffnext.distributed.alike import check_alike
from tests.children import LONG_S


def meet(monkeypatch, *found):
    """What `check_alike` says to each of several processes, which are threads here."""
    box, ranks = list(found), threading.local()
    barrier = threading.Barrier(len(found), timeout=LONG_S)

    def gather(value):
        box[ranks.mine] = value
        barrier.wait()
        values = list(box)
        barrier.wait()
        return values

    def check(rank):
        ranks.mine = rank
        try:
            check_alike(found[rank])
        except ValueError as error:
            return str(error)

    monkeypatch.setattr(processes, "gather", gather)
    with ThreadPoolExecutor(len(found)) as pool:
        return list(pool.map(check, range(len(found))))


def test_what_differs_is_said_with_its_ranks(monkeypatch):
    json = '{\n  "a": "' + "b" * 99
    most = {"A": "1", "B": "x", "C": "y" * 99, "D": json + '"\n}'}
    told = meet(monkeypatch, most, most, {"A": "1", "C": "z", "D": json + 'c"\n}'}, most)
    assert told == [told[0]] * 4
    assert told[0].splitlines()[1:] == [
        "  B: x on rank 0, 1, 3; nothing on rank 2",
        f"  C: {'y' * 60}... on rank 0, 1, 3; z on rank 2",
        f'  D: ...{"b" * 20}" }} on rank 0, 1, 3; ...{"b" * 20}c" }} on rank 2',
    ]


def test_processes_that_have_the_same_go_on(monkeypatch):
    assert meet(monkeypatch, {"A": "1", "B": "2"}, {"B": "2", "A": "1"}) == [None, None]


def facts_of(tmp_path, *words):
    (tmp_path / "run.yml").write_text("SOLVER: {BASE_LR: 1e-4}")
    args = parse_args(["--cfg", str(tmp_path / "run.yml"), *words])
    return facts(args, read_config(args))


def test_options_of_a_run_are_compared_and_those_of_a_machine_are_not(tmp_path):
    json = tmp_path / "zero.json"
    json.write_text("{}")
    first = facts_of(tmp_path, "--deepspeed", str(json))
    machine = ["NUM_GPUS", "4", "TRAIN.NUM_THREADS", "2", "GPU_ID", "1"]
    assert facts_of(tmp_path, "--deepspeed", str(json), *machine) == first
    json.write_text('{"zero_optimization": {}}')
    second = facts_of(tmp_path, "--deepspeed", str(json), "SOLVER.BASE_LR", "2e-4")
    differs = {name for name in first if first[name] != second[name]}
    assert differs == {"SOLVER.BASE_LR", f"content of {json}"}
    assert first["SOLVER.BASE_LR"] == "0.0001"
