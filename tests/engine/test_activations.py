# SPDX-License-Identifier: Apache-2.0
"""Activations measured without memory, against closed forms and against what the allocator hands out."""

import gc

import pytest
import torch
from torch import nn

from diffnext.data.schema import Batch
from diffnext.engine.activations import Blank, Live, LowPrecision, in_modules, measure
from diffnext.engine.blocks import recompute_blocks
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.pipelines.nova.pipeline_train_t2i import NOVATrainT2IPipeline
from diffnext.pipelines.train_base import Expected
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from diffnext.utils.seeding import Draws
from tests.engine.toy import CHANNELS, SIZE, ToyNet, ToyPipeline, make_batch
from tests.pipelines import tiny

SHAPE = (2 * CHANNELS, SIZE, SIZE)


def test_bytes_of_a_chain_of_products_by_hand():
    count, width = 100, 64
    with torch.device("meta"):
        net = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(3)])
        x = torch.empty(count, width)
    with Live(ignore=[x, *net.parameters()]) as live:
        out = net(x)
        assert live.now_bytes == 4 * count * width * 3  # each output; the first input is not new
        del out
        assert live.now_bytes == 0


def profiled_peak(step) -> int:
    """Peak of the bytes that the CPU's allocator hands out in a call."""
    gc.collect()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        step()
    now = peak = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def peak_of(pipe, batch) -> int:
    """Of a step on the CPU, its second, with gradients there already."""
    for param in pipe.model.parameters():
        param.grad = torch.zeros_like(param)

    def step():
        inputs = pipe.prepare(batch, draws=Draws(0, 0, batch.keys()))
        pipe.loss(pipe.model, inputs).loss.backward()

    step()
    return profiled_peak(step)


@pytest.mark.parametrize("keep", [None, [], ["matmul"]])
def test_a_run_on_the_cpu_hands_out_as_much(keep):
    pipes = {}
    for device in ("meta", "cpu"):
        with torch.device(device):
            pipes[device] = ToyPipeline(ToyNet(depth=8))
        if keep is not None:
            recompute_blocks(pipes[device].configure(), keep)
    told = measure(
        pipes["meta"],
        pipes["meta"].model,
        expected=Expected(),
        shape=SHAPE,
        batch_size=64,
        precision=torch.float32,
    )
    states = 0 if keep is None else 8 * torch.get_rng_state().nbytes  # one for each block
    assert told + states == pytest.approx(peak_of(pipes["cpu"], make_batch(range(64))), rel=0.05)


def nova(device, level) -> NOVATrainT2IPipeline:
    with torch.device(device):
        net = NOVATransformer3DModel(
            **tiny.NETWORK | {"arch": ("vit_d4w64", "vit_d4w64", "mlp_d3w64"), "image_size": 256},
            text_token_dim=32,
            text_token_len=12,
            video_base_size=(1, 8, 8),
        )
    pipe = NOVATrainT2IPipeline(net, DDPMScheduler(), vae_config={"scaling_factor": 0.2})
    pipe.configure(checkpointing=level)
    return pipe


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_each_level_of_a_real_family_hands_out_as_much(level):
    pipe = nova("meta", level)
    expected = pipe.expects(pipe.model.config)
    told = measure(pipe, pipe.model, expected=expected, batch_size=2, precision=torch.float32)
    zeros = torch.zeros(2, dtype=torch.int64)
    batch = Batch(torch.zeros(2, 8, 1, 32, 32), zeros, zeros, prompts=[torch.zeros(12, 32)] * 2)
    # kernels of the CPU have buffers of their own
    assert told == pytest.approx(peak_of(nova("cpu", level), batch), rel=0.15)


def test_half_precision_halves_products_and_copies_weights():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
        x = torch.empty(100, 64)
    low = LowPrecision(torch.bfloat16)
    with in_modules(low), Live(ignore=[x, *net.parameters()]) as live:
        out = net(x)
    assert live.now_bytes == 2 * (3 * 100 * 64) + 2 * (2 * 64 * 64)  # x, two outputs; two weights
    del out
    held = LowPrecision(torch.bfloat16)
    with Live(ignore=[x, *net.parameters()]) as other:
        held.seen = other.hide
        with in_modules(held):
            out = net(x)
    assert out.dtype == torch.bfloat16
    assert other.now_bytes == 2 * (3 * 100 * 64)


def test_each_way_of_computing_again_needs_less():
    def need(level, keep=None):
        pipe = nova("meta", level)
        if keep is not None:
            recompute_blocks(pipe.model, keep)
        expected = pipe.expects(pipe.model.config)
        return measure(pipe, pipe.model, expected=expected, batch_size=4, precision=torch.bfloat16)

    levels = [need(level) for level in range(4)]
    assert sorted(set(levels), reverse=True) == levels
    assert need(0, []) < need(0, ["matmul"]) < need(0, ["matmul", "attention"]) < levels[0]


def test_blank_numbers_have_the_shapes_of_real_ones():
    keys = [(0, 1), (0, 2)]
    real, blank = Draws(3, 0, keys), Blank(3, 0, keys, device="meta")
    for draw in ("randn", "rand"):
        assert getattr(blank.stream("a"), draw)(3, 4).shape == getattr(real, draw)(3, 4).shape
    assert blank.permutation(5).shape == real.permutation(5).shape
    assert blank.randint(9, 2).dtype == real.randint(9, 2).dtype
