# SPDX-License-Identifier: Apache-2.0
"""Saved optimizer state goes back to the device where torch's own load_state_dict puts it."""

import pytest
import torch
from torch import nn

from diffnext.engine.backends.base import Backend, Learner
from tests.engine.runs import ALONE

NOWHERE = torch.device("meta")  # stands for a GPU


class Shapes:
    """A saved state of which only the shapes are known."""

    def __init__(self, shapes):
        self.known = {name: torch.Size(shape) for name, shape in shapes.items()}

    def shapes(self):
        return self.known

    def read(self, tensors):
        assert set(tensors) == set(self.known)


SAVED = {
    "weight.step": (),
    "weight.exp_avg": (4, 3),
    "weight.row": (4, 1),
    "weight.product": (),
    "bias.step": (),
    "bias.exp_avg": (4,),
}


@pytest.mark.parametrize(
    ("options", "counter"),
    [({}, "cpu"), ({"fused": True}, "meta"), ({"capturable": True}, "meta")],
)
def test_only_a_counter_of_the_host_goes_there(options, counter):
    net = nn.Linear(3, 4, device=NOWHERE)
    optimizer = torch.optim.AdamW(net.parameters())
    optimizer.defaults |= options  # which these classes refuse for a device without kernels
    backend = Backend(ALONE, precision="float32")
    backend.learners["student"] = Learner(net, net, optimizer)
    backend._load_optimizer("student", Shapes(SAVED))
    for param, names in ((net.weight, 4), (net.bias, 2)):
        state = optimizer.state[param]
        assert len(state) == names
        wanted = {name: counter if name == "step" else "meta" for name in state}
        assert {name: value.device.type for name, value in state.items()} == wanted
        assert state["exp_avg"].shape == param.shape


def test_the_counter_of_a_single_number_stays_on_the_host():
    net = nn.Module()
    net.scale = nn.Parameter(torch.ones((), device=NOWHERE))
    backend = Backend(ALONE, precision="float32")
    optimizer = torch.optim.AdamW(net.parameters())
    backend.learners["student"] = Learner(net, net, optimizer)
    backend._load_optimizer("student", Shapes({"scale.step": (), "scale.exp_avg": ()}))
    places = {name: value.device.type for name, value in optimizer.state[net.scale].items()}
    assert places == {"step": "cpu", "exp_avg": "meta"}
