# SPDX-License-Identifier: Apache-2.0
"""The weights of another network that a new one starts from."""

import pytest
import torch
from safetensors.torch import save_file

from diffnext.config import get_cfg
from diffnext.distributed.env import Env
from diffnext.engine.build import make_plan
from diffnext.engine.build.first_weights import FirstWeights
from diffnext.engine.build.run import make_trainer
from diffnext.methods.base import Role
from diffnext.methods.finetune import Finetune
from tests.runs.tiny_nova import make_run

ENV = Env(0, 1, 0, torch.device("cpu"))


class Taught(Finetune):
    """Beside the network that learns there is one that stays as it began."""

    roles = (Role("student", learns=True), Role("teacher"))


def test_a_teacher_has_the_first_weights_also_when_the_run_goes_on(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_file(str(make_run(tmp_path, "c2i")))
    cfg.METHOD.TYPE = f"{__name__}:Taught"
    first = make_trainer(cfg, make_plan(cfg, world=1), ENV, begin=0)
    first.backend.learners["student"].net.save_pretrained(tmp_path / "first")
    cfg.RNG_SEED += 1
    cfg.MODEL.START_FROM = str(tmp_path / "first")
    resumed = make_trainer(cfg, make_plan(cfg, world=1, resumed=True), ENV, begin=0)
    wanted = first.backend.learners["student"].net.state_dict()
    for name, value in resumed.backend.learners["teacher"].net.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    cfg.METHOD.TYPE = "finetune"
    assert make_plan(cfg, world=1, resumed=True).first_weights is None  # which may be gone by now


def test_all_that_was_promised_is_copied_or_the_run_ends(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    random = {name: value.clone() for name, value in net.state_dict().items()}
    saved = {"0.weight": torch.ones(3, 2), "1.bias": torch.ones(1), "other": torch.ones(1)}
    for number, (name, value) in enumerate(saved.items()):
        save_file({name: value}, tmp_path / f"part_{number}.safetensors")
    first = FirstWeights(tmp_path, frozenset({"0.weight", "1.bias"}))
    first.load(net)
    for name, value in net.state_dict().items():
        assert torch.equal(value, saved.get(name, random[name]))
    (tmp_path / "part_1.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"1 of 2 tensors are gone from {tmp_path} since"):
        first.load(net)
