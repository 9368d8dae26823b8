# SPDX-License-Identifier: Apache-2.0
"""The demo's stages: each once, again if its command changed, and none after a failure."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load_demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


demo = load_demo()


def writing(path, text):
    """A stage that appends `text` to a file."""
    code = f"open({str(path)!r}, 'a').write({text!r})"
    return demo.Stage(f"write_{text}", f"write {text}", ("-c", code), 0.1)


def test_a_stage_that_is_done_is_not_run_again(tmp_path):
    plan = [writing(tmp_path / "log", text) for text in "ab"]
    first = demo.run(plan, tmp_path)
    assert demo.run(plan, tmp_path) == first
    assert (tmp_path / "log").read_text() == "ab"


def test_an_interrupted_stage_is_waited_for(tmp_path):
    """As by Ctrl-C in a training that has a checkpoint to write."""
    saved = tmp_path / "saved"
    code = f"import os, time; os.kill(os.getppid(), 2); time.sleep(0.6); open({str(saved)!r}, 'w')"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            demo.run([demo.Stage("one", "save", ("-c", code), 0.1)], tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert saved.exists()
    assert not list(tmp_path.glob("stages/*.json"))  # not done


def test_a_training_that_a_signal_ended_in_order_is_not_done(tmp_path):
    latest = tmp_path / "latest.json"
    (tmp_path / "config.yaml").write_text("SOLVER:\n  MAX_STEPS: 8\n")
    code = f"import json, pathlib; path = pathlib.Path({str(latest)!r}); "
    code += "path.write_text(json.dumps({'step': 8 if path.exists() else 3}))"
    plan = [demo.Stage("t", "train", ("-c", code), 0.1, output=str(tmp_path), trains=True)]
    with pytest.raises(KeyboardInterrupt):
        demo.run([*plan, writing(tmp_path / "log", "z")], tmp_path)
    assert not (tmp_path / "log").exists()
    demo.run([*plan, writing(tmp_path / "log", "z")], tmp_path)
    assert (tmp_path / "log").read_text() == "z"


def test_a_stage_with_another_command_is_run_again(tmp_path):
    demo.run([demo.Stage("one", "first", ("-c", "pass"), 0.1)], tmp_path)
    code = f"open({str(tmp_path / 'log')!r}, 'a').write('new')"
    demo.run([demo.Stage("one", "second", ("-c", code), 0.1)], tmp_path)
    assert (tmp_path / "log").read_text() == "new"


def test_what_follows_a_changed_stage_is_run_again(tmp_path):
    last = writing(tmp_path / "log", "z")
    demo.run([writing(tmp_path / "log", "a"), last], tmp_path)
    demo.run([writing(tmp_path / "log", "b"), last], tmp_path)
    assert (tmp_path / "log").read_text() == "azbz"


def test_what_other_inputs_made_is_removed_and_what_was_interrupted_is_kept(tmp_path):
    made = tmp_path / "made"

    def plan(text):
        code = f"open({str(made / text)!r}, 'w')"
        return [demo.Stage("one", "write", ("-c", code), 0.1, output=str(made))]

    made.mkdir()
    (made / "begun").touch()
    demo.run(plan("first"), tmp_path)
    assert {path.name for path in made.iterdir()} == {"begun", "first"}
    with pytest.raises(subprocess.CalledProcessError):  # the folder is gone
        demo.run(plan("second"), tmp_path)
    assert not made.exists()


def test_a_failing_stage_stops_the_run_and_is_tried_again(tmp_path):
    failing = demo.Stage("bad", "fail", ("-c", "raise SystemExit(3)"), 0.1)
    plan = [writing(tmp_path / "log", "a"), failing, writing(tmp_path / "log", "b")]
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            demo.run(plan, tmp_path)
        assert failed.value.returncode == 3
    assert (tmp_path / "log").read_text() == "a"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a dozen commands
def test_the_whole_chain_on_a_tiny_world(tmp_path):
    """Media, caches, two trainings, samples, scores and the report, by the demo's own commands."""
    short = ["SOLVER.MAX_STEPS", "2", "TRAIN.BATCH_SIZE", "2"]
    sizes = ["--images", "4", "--videos", "2", "--prompts", "2"]
    quick = ["--ar-steps", "1", "--diffusion-steps", "2"]
    command = [sys.executable, "tools/demo.py", "--out", str(tmp_path), *sizes, *quick, *short]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert page.count("data:image/gif;base64,") == 2
    assert "<polyline" in page
    marks = sorted((tmp_path / "stages").iterdir())
    times = [mark.stat().st_mtime_ns for mark in marks]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert [mark.stat().st_mtime_ns for mark in marks] == times
