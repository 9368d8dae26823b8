# SPDX-License-Identifier: Apache-2.0
"""The commands of the README run, at a tiny size, and links in all documents lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.docs.guides import (
    ROOT,
    Guide,
    anchors,
    blocks,
    links,
    prepare,
    run_script,
    script,
    words,
)
from tests.pipelines import tiny

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
RULES = [
    (r"--resolution 1024", "--resolution 32"),
    (r"(scripts/train\.py .*)", r"\1 SOLVER.MAX_STEPS 2"),
    (r"scripts/generate\.py", "scripts/generate.py --steps 4 --diffusion-steps 2"),
]


def command(line: str) -> None:
    """Run a line, but for those that install things or take minutes."""
    if line.startswith("make "):
        target = line.split()[1]
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif line.startswith("pip "):
        assert line == "pip install -c constraints.txt -e ."
    else:
        run_script(words(line))


def test_commands(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    tiny.t2i().save_pretrained(tmp_path / "nova-d48w1024-sdxl1024")
    Guide(ROOT / "README.md", RULES, command).run()
    assert Path("my_run/checkpoints/nova_d48w1024_1024px_iter_2").is_dir()
    assert Path("my_samples/00000.png").is_file()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(path):
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_guide():
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(
        links(ROOT / "README.md")
    )


def test_the_command_of_the_reference_is_understood(tmp_path, monkeypatch):
    train = script("diffnext/cli/train.py")
    [block] = [block for block in blocks(ROOT / "docs" / "config.md") if block.language == "bash"]
    monkeypatch.chdir(tmp_path)
    Path("my_run.yml").write_text("SOLVER: {BASE_LR: 1.0}\n")
    cfg = train.read_config(train.parse_args(words(block.text)[1:]))
    assert (cfg.SOLVER.BASE_LR, cfg.MODEL.CONFIG.image_size) == (5e-5, 64)
