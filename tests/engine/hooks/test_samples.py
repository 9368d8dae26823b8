# SPDX-License-Identifier: Apache-2.0
"""Samples are drawn with the averaged weights, shown, and never the end of a run."""

import logging
import re

import pytest
import torch

from diffnext.config import get_cfg
from diffnext.engine.build.samples import check_samples, prompts_of
from diffnext.engine.hooks.samples import SampleHook
from diffnext.utils.metrics import read_rows
from tests.engine.runs import toy_run


class Wall:
    """Curves that keep what they are shown."""

    def __init__(self):
        self.shown = []

    def show(self, step, samples):
        self.shown.append((step, samples))


def sampled_run(folder, draw, **options):
    folder.mkdir(exist_ok=True)
    trainer, wall = toy_run(folder, max_steps=4, **options), Wall()
    ema = trainer.hooks[1].ema
    hook = SampleHook(folder / "samples", draw, curves=[wall], role="student", every=3, ema=ema)
    trainer.hooks.insert(2, hook)
    trainer.train()
    return trainer, wall


def losses(folder):
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl")]


def test_a_draw_gets_the_average_and_its_files_are_shown(tmp_path):
    seen = []

    def draw(config, weights, folder):
        seen.append({name: value.clone() for name, value in weights.items()})
        assert config["depth"] == 2
        torch.rand(7)  # of which the run shall see nothing
        return [(folder / "00000.png", f"drawing {len(seen)}")]

    trainer, wall = sampled_run(tmp_path / "run", draw)
    folder = tmp_path / "run" / "samples"
    steps = (0, 3, 4)
    wanted = [
        (n, [(folder / f"step_{n}/00000.png", f"drawing {i}")]) for i, n in enumerate(steps, 1)
    ]
    assert wall.shown == wanted
    saved = trainer.pipe.net.state_dict() | trainer.hooks[1].ema.tensors()
    assert seen[-1].keys() == saved.keys()
    assert all(torch.equal(seen[-1][name], value) for name, value in saved.items())
    assert not torch.equal(seen[-1]["head.weight"], trainer.pipe.net.head.weight)


@pytest.mark.parametrize("early", [False, True], ids=["drawing", "copying"])
def test_what_goes_wrong_is_a_warning(tmp_path, caplog, monkeypatch, early):
    def fail(*arguments, **options):
        if not early:
            torch.manual_seed(12345)
        raise torch.OutOfMemoryError("no room for a picture")

    if early:
        monkeypatch.setattr("diffnext.engine.hooks.samples.whole_network", fail)
    _, wall = sampled_run(tmp_path / "failing", fail)
    assert re.findall(r"no samples of step (\d)", caplog.text) == ["0", "3", "4"]
    assert not wall.shown
    assert "training goes on: OutOfMemoryError: no room for a picture" in caplog.text
    caplog.set_level(logging.INFO)
    (tmp_path / "plain").mkdir()
    toy_run(tmp_path / "plain", max_steps=4).train()
    assert losses(tmp_path / "failing") == losses(tmp_path / "plain")


@pytest.mark.parametrize(
    ("prompts", "classes", "what"),
    [
        ("", False, "SAMPLE.PROMPTS is empty"),
        (["a cat", 3], False, r"SAMPLE.PROMPTS has \[3\]; nova_train_t2i takes texts"),
        (["a cat", 3], True, r"\['a cat'\]; nova_train_t2i takes numbers of classes"),
    ],
)
def test_prompts_that_cannot_be_sampled_are_refused(prompts, classes, what):
    cfg = get_cfg()
    cfg.PIPELINE.TYPE, cfg.SAMPLE.PROMPTS = "nova_train_t2i", prompts
    check_samples(cfg, classes=classes)  # nothing is asked for
    cfg.SAMPLE.EVERY = 5
    with pytest.raises(ValueError, match=what):
        check_samples(cfg, classes=classes)


def test_settings_that_there_are_not_are_refused(tmp_path):
    cfg = get_cfg()
    cfg.SAMPLE.CONFIG = {"guidance": 5}
    with pytest.raises(ValueError, match=r"SAMPLE.CONFIG has \['guidance'\]; Settings takes"):
        check_samples(cfg, classes=False)


def test_prompts_are_read_from_a_file(tmp_path):
    cfg, path = get_cfg(), tmp_path / "prompts.txt"
    path.write_text("a cat\n\na dog\n")
    cfg.SAMPLE.PROMPTS = str(path)
    assert prompts_of(cfg) == ["a cat", "a dog"]
