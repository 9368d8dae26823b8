# SPDX-License-Identifier: Apache-2.0
"""The command `diffnext`: it finds its commands, says what there are, and starts fast."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffnext import cli
from tests.cpu import fastest

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT)}


COMMAND = [sys.executable, "-c", "import sys; from diffnext.cli import main; sys.exit(main())"]


def run(*words):
    return subprocess.run([*COMMAND, *words], env=ENV, capture_output=True, text=True)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_each_command(name, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*name.split(), "--help"])
    assert caught.value.code == 0
    assert f"usage: diffnext {name}" in capsys.readouterr().out


def test_help_loads_no_torch():
    script = f"""
import sys
from diffnext import cli
for name in {list(cli.COMMANDS)}:
    try:
        cli.main([*name.split(), "--help"])
    except SystemExit:
        pass
print("heavy:", [name for name in ("torch", "numpy", "diffusers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], env=ENV, capture_output=True, text=True)
    assert done.stdout.endswith("heavy: []\n"), done.stderr


def test_plans_and_tools_that_encode_nothing_load_no_torch():
    names = ("cache_plan", "tools.algebra", "tools.compare", "tools.exchange", "tools.summary")
    modules = [f"diffnext.data.{name}" for name in (*names, "tools.verify")]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code], env=ENV, check=False).returncode


def test_help_is_quick():
    text, seconds = fastest([*COMMAND, "--help"], ENV)
    assert all(name in text for name in cli.COMMANDS)
    assert seconds < 1


@pytest.mark.parametrize("words", [[], ["cache"], ["cache", "bulid"], ["trian"]])
def test_what_is_no_command_is_told_what_there_is(words, capsys):
    assert cli.main(words) == 2
    assert "cache build" in capsys.readouterr().err


def test_a_group_shows_its_commands(capsys):
    assert cli.main(["cache", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "cache build" in shown
    assert "train" not in shown


def test_the_exit_code_is_that_of_the_command(tmp_path):
    words = ["--input", "/nowhere", "--output", str(tmp_path / "c"), "--resolution", "64"]
    done = run("cache", "build", *words, "--vae", "/nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("build_cache: ")
