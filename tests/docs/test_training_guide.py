# SPDX-License-Identifier: Apache-2.0
"""Every command and snippet of the training guide runs, at a tiny size."""

import re
from pathlib import Path

import yaml
from torch.distributed.run import config_from_args, parse_args

from diffnext.engine.launchers import deepspeed as by_deepspeed
from diffnext.engine.launchers import torchrun as by_torchrun
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.utils.metrics import read_rows
from tests.docs.guides import ROOT, Guide, prepare, run_script, words
from tests.pipelines import tiny
from tests.runs.forks import Server

PATH = ROOT / "docs" / "training.md"
RULES = [
    (r"--resolution (1024|480x768)", "--resolution 32"),
    (r"--resolution 256", "--resolution 64"),
    (r"image_size: 256", "image_size: 64"),
    (r"(vit|mlp)_d\d+w\d+", r"\1_d1w64"),
    (r"--num-frames 33", "--num-frames 5"),
    (r"MAX_STEPS = 100$", "MAX_STEPS = 2; cfg.SOLVER.DISPLAY = 1"),
    (r"= 100$", "= 2"),
    (r"_iter_100", "_iter_2"),
    (r"MAX_STEPS 200", "MAX_STEPS 3"),
    (r"MAX_STEPS 300", "MAX_STEPS 5"),
    (r"_(STEPS|EVERY): \d+", r"_\1: 2"),
    (r"NUM_GPUS 8", "NUM_GPUS 2"),
    (r"img_held_out", "img_dataset"),
    (r"num_inference_steps: 32", "num_inference_steps: 2, num_diffusion_steps: 2"),
]


class Runner:
    """Runs the commands; those of several processes up to what would be started, and then in forks.

    That launchers start it in earnest is tested with the script, once for each.
    """

    def __init__(self, monkeypatch, server: Server) -> None:
        self.monkeypatch = monkeypatch
        self.server = server
        self.texts: list[str] = []

    def command(self, line: str) -> None:
        given = words(line)
        if "NUM_GPUS" not in given:
            run_script(given)
            return
        if "--host" in given:
            Path("hostfile").write_text("node1 slots=8\nnode2 slots=8\n")
        started = []
        with self.monkeypatch.context() as patch:
            for name in ("run_group", "run_peers"):
                patch.setattr(by_torchrun, name, lambda c: started.append(c) or 0)
            patch.setattr(by_deepspeed, "run_hosts", lambda *args: started.append(args) or 0)
            patch.setattr(by_deepspeed.shutil, "which", str)  # as if pdsh were there
            run_script(given)
        check = check_deepspeed if "--deepspeed" in given else check_torchrun
        if "--host" in given:
            check = check_hosts
        check(started.pop(), given)
        if not {"--nnodes", "--host"} & set(given):
            log = Path("forks.log").absolute()
            codes = self.server.train(*given[1:], log=log, world=2, folder=Path.cwd())
            assert codes == [0, 0], log.read_text()[-5000:]

    def text(self, text: str) -> None:
        self.texts.append(text)


def check_torchrun(command, given) -> None:
    assert command[1:3] == ["-m", "diffnext.engine.launchers.agent"]
    config, _, arguments = config_from_args(parse_args(command[3:]))
    nodes = 2 if "--nnodes" in given else 1
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (nodes, nodes, 2)
    if nodes == 2:
        assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "node1:29500")
        assert config.run_id == "t2i"
    assert arguments[-len(given) + 1 :] == given[1:]


def check_deepspeed(started, given) -> None:
    _, job, hosts, _ = started
    assert (len(hosts), job.num_processes) == (1, 2)
    assert job.command[-len(given) + 1 :] == given[1:]


def check_hosts(started, given) -> None:
    reach, job, hosts, _ = started
    assert "--hostfile=./hostfile" in reach
    assert (hosts, job.num_processes) == (["node1", "node2"], 2)
    assert job.command[-len(given) + 1 :] == given[1:]


def test_commands_and_snippets(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    tiny.t2i().save_pretrained(tmp_path / "nova-d48w1024-sdxl1024")
    tiny.t2v().save_pretrained(tmp_path / "nova-d48w1024-osp480")
    rules = [(r"/path/to", "."), *RULES]
    server = Server()
    try:
        runner = Runner(monkeypatch, server)
        Guide(PATH, rules, runner.command, {"text": runner.text}).run()
    finally:
        server.close()

    steps = {run: len(rows(run)) for run in ("t2i", "t2v", "long", "second", "small", "deeper")}
    assert steps == {"t2i": 2, "t2v": 3, "long": 2, "second": 2, "small": 2, "deeper": 2}
    assert len(rows("t2i_8")) == len(rows("t2i_zero2")) == 2  # two processes each
    assert not Path("runs/t2i_nodes").exists() and not Path("runs/t2i_hosts").exists()
    check_text(runner.texts)
    check_watched()
    check_keys(rows("t2v"))
    long = yaml.safe_load(Path("runs/long/config.yaml").read_text())
    assert (long["SOLVER"]["BASE_LR"], long["TRAIN"]["BATCH_SIZE"]) == (5e-5, 4)
    weights = "runs/small/checkpoints/nova_d48w1024_1024px_iter_2/transformer"
    assert NOVATransformer3DModel.from_pretrained(weights).config.image_size == 64


def rows(run: str) -> list[dict]:
    return read_rows(f"runs/{run}/logs/metrics.jsonl")


def check_text(texts: list[str]) -> None:
    """The line of the log and the folder of a run are as the guide shows them."""
    line, tree = texts
    log = Path("runs/t2v/logs/train.log").read_text()
    found = re.search(r"step 2/2 .*", log)[0]
    assert shape(line.partition(" ")[2]) == shape(found)
    root, *files = tree.split()
    for name in files:
        assert Path(root, name).exists(), name
    shown = {Path(root, name).parts[2] for name in files}
    assert shown == {path.name for path in Path(root).iterdir()}
    inside = next(Path(root, "checkpoints").glob("*_iter_2"))
    assert all(path.name in tree for path in inside.iterdir())


def check_watched() -> None:
    """The guide names the curves that there are, and what a watched run leaves."""
    guide = PATH.read_text()
    for row in read_rows("runs/watched/logs/eval.jsonl"):
        assert set(re.findall(r"`(eval/loss\w*)`", guide)) <= set(row)
    assert Path("runs/watched/best.json").exists()
    assert Path("runs/watched/samples/step_2/00001.png").exists()
    assert "two cats on a red sofa" in Path("runs/watched/report.html").read_text()


def shape(line: str) -> str:
    """A line of the log without its numbers, and without parts of a wait that is long only here."""
    line = re.sub(r" \(read [^)]*\)", "", line)
    return re.sub(r"-?\d[\d.:e+-]*", "#", line).strip()


def check_keys(found: list[dict]) -> None:
    """The guide's table explains every key of a row, and nothing else."""
    table = re.search(r"^\| key \|.*?\n\n", PATH.read_text(), flags=re.DOTALL | re.MULTILINE)[0]
    keys = re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.strip().splitlines()))
    # no record is damaged here, and no gradient limited
    assert set(keys) - {"damaged", "clipped"} == set(found[0])
    for row in found:
        assert abs(row["loss"] - row["loss_t2i"] - row["loss_i2i"]) < 1e-4
