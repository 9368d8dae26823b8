# SPDX-License-Identifier: Apache-2.0
"""What the guide to long runs says is so: its options, exit codes, numbers and the command."""

import re
from operator import attrgetter

from diffnext.config import get_cfg
from diffnext.engine.heartbeat import HUNG
from diffnext.engine.hooks.guard import HALVINGS, MOST_FILES
from diffnext.engine.hooks.heartbeat import PATIENCE
from diffnext.engine.hooks.moved import PROBES
from diffnext.engine.launchers.group import DIE_AFTER_S
from diffnext.engine.signals import SIGNALS
from tests.docs.guides import ROOT, Guide, anchors, links, run_script, words
from tests.runs.test_overfit import train
from tests.runs.tiny_nova import make_run

PATH = ROOT / "docs" / "running.md"


def test_the_command_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = make_run(tmp_path, "t2i", **{"SOLVER.MAX_STEPS": 2})
    assert train("--cfg", str(config), "--exp-dir", "runs/t2i") == 0
    Guide(PATH, [], lambda line: run_script(words(line)), {"text": lambda text: None}).run()
    assert "1 steps short" in capsys.readouterr().out


def test_options_and_numbers_are_those_of_the_code():
    text = PATH.read_text()
    cfg = get_cfg()
    named = set(re.findall(r"\b(?:SOLVER|TRAIN|MODEL)\.[A-Z_]+", text)) | {"NUM_GPUS"}
    for name in named:
        attrgetter(name)(cfg)
    assert {"SOLVER.MAX_HOURS", "SOLVER.HANG_TIMEOUT", "SOLVER.MAX_SKIPPED"} < named
    assert f"exit code is {HUNG}" in text and f"at least {HALVINGS}" in text
    assert f"After {MOST_FILES} files" in text and f"up to {PROBES}\nvalues" in text
    assert cfg.SOLVER.MAX_SKIPPED == 100 and cfg.SOLVER.HANG_TIMEOUT == 30 * 60
    assert (PATIENCE, DIE_AFTER_S) == (4, 5.0)  # "four times", "five seconds"
    for number in SIGNALS:
        assert number.name in text or number.name == "SIGINT"


def test_links_lead_somewhere():
    for target in links(PATH):
        name, _, anchor = target.partition("#")
        assert not anchor or anchor in anchors(PATH.parent / name)
        assert (PATH.parent / name).exists()
