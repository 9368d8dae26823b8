# SPDX-License-Identifier: Apache-2.0
"""The weights of another network that a new one starts from."""

import pytest
import torch
from safetensors.torch import save_file

from diffnext.engine.build.first_weights import FirstWeights


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
