# SPDX-License-Identifier: Apache-2.0
"""A training step on a GPU: everything is where it is computed with, and the host waits for nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from diffnext.data.schema import Batch
from diffnext.distributed.env import Env
from diffnext.engine.backends.base import Backend
from diffnext.engine.checkpoint.staging import HostCopies
from diffnext.engine.ema import EMA
from diffnext.engine.hooks.average import EMAHook
from diffnext.engine.hooks.log import LogHook
from diffnext.engine.hooks.moved import MovedHook
from diffnext.engine.optim import optimizer_factory
from diffnext.engine.trainer import Trainer
from diffnext.methods.finetune import Finetune
from diffnext.pipelines.builder import PIPELINES
from diffnext.pipelines.train_base import Grid
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from diffnext.utils.seeding import Draws
from tests.device.gpu import DEVICE, Gpu, gpu
from tests.models.tiny import class_net, video_net
from tests.pipelines.nova.test_train_nova import VAE, batch_of

ENV = Env(0, 1, 0, DEVICE)
CASES = {  # task, network, scheduler, precision, where the averages are
    "t2v": ("nova_train_t2v", video_net, FlowMatchEulerDiscreteScheduler, "bfloat16", "cpu"),
    "c2i": ("nova_train_c2i", class_net, DDPMScheduler, "float16", DEVICE),
}


def pinned(batch: Batch, watch: Gpu) -> Batch:
    """A batch as the loader makes it for a GPU."""
    for field in (batch.moments, batch.labels, batch.flow):
        watch.pin(field)
    return batch


def trainer_of(name, net, scheduler, precision, average, batch) -> Trainer:
    """All of a run that is on the device."""
    pipe = PIPELINES.get(name)(net(), scheduler(), vae_config=VAE, loss_repeat=4)
    pipe.scheduler.noise_levels(torch.zeros(1, dtype=torch.int64, device=DEVICE))  # makes tables
    backend = Backend(ENV, precision=precision)
    make = optimizer_factory("adamw", lr=1e-3, weight_decay=0.02, beta2=0.95)
    net = backend.add("student", pipe.configure(checkpointing=3), make)
    ema = EMA(backend.weights("student", learning=True), decays=(0.9, 0.99), device=average)
    trainer = Trainer(
        pipe=pipe,
        method=Finetune(pipe, {"student": net}),
        backend=backend,
        batches=itertools.repeat(batch),
        schedules={"student": lambda step: 1e-3},
        max_steps=10,
        seed=3,
        max_norm=1.0,
    )
    log = LogHook([Rows()], display=10, samples_per_step=len(batch))
    trainer.hooks = [MovedHook(every=1), EMAHook(ema, role="student", every=1), log]
    return trainer


class Rows(list):
    """Keeps what is logged."""

    write = list.extend


@pytest.mark.parametrize("case", CASES)
def test_the_host_waits_for_nothing_in_a_step_and_once_for_what_it_keeps(case):
    with gpu() as watch:
        batch = pinned(batch_of(CASES[case][0]), watch)
        trainer = trainer_of(*CASES[case], batch)
        for hook in trainer.hooks:
            hook.before_train(trainer)
        watch.waits.clear()
        trainer.timer.start()
        metrics = trainer.train_step()
        trainer.timer.stop()
        trainer.step += 1
        for hook in trainer.hooks:
            hook.after_step(trainer, metrics)
        assert watch.waits == []
        log = trainer.hooks[-1]
        metrics.add({"offloaded": torch.ones(())})
        log.flush()  # of all steps since the last time
        assert sum("from cuda:0 to cpu" in wait for wait in watch.waits) == 1
        assert all("_rows" in wait or "take" in wait for wait in watch.waits)
        watch.waits.clear()
        backend = trainer.backend
        copies = HostCopies().take(backend.weights("student") | backend.optimizer_state("student"))
        assert [wait.split(" > ")[-1] for wait in watch.waits] == ["for the stream"]
        assert {copy.device.type for copy in copies.values()} == {"cpu"}
    (row,) = log.writers[0]
    assert {"loss", "grad_norm", "skipped", "moved", "offloaded"} <= set(row)
    assert row["step_time"] == row["data_transfer"] == 1e-3


def test_held_out_losses_are_computed_on_the_gpu():
    with gpu() as watch, torch.no_grad():
        batch = pinned(batch_of(CASES["c2i"][0]), watch)
        trainer = trainer_of(*CASES["c2i"], batch)
        draws = Draws(3, 0, batch.keys(), device=DEVICE, name="eval")
        grid = Grid(timesteps=[100, 900], mask_ratios=[0.85])
        net = trainer.backend.learners["student"].wrapped.eval()
        losses = trainer.pipe.evaluate(net, batch.to(DEVICE), draws=draws, grid=grid)
        levels = trainer.pipe.noise_levels((len(batch), 4, 1, 8, 8), draws)
        assert {loss.device for loss in losses.values()} == {levels.device} == {DEVICE}
