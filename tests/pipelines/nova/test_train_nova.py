# SPDX-License-Identifier: Apache-2.0
"""NOVA's training pipelines: what is drawn for whom, what is frozen, what the loss is."""

from dataclasses import replace

import pytest
import torch

from diffnext.data.schema import Batch
from diffnext.models.transformers.transformer_3d import select
from diffnext.pipelines.builder import PIPELINES
from diffnext.pipelines.nova.train_nova import mask_ratio
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from diffnext.utils.seeding import Draws
from tests.models.tiny import TEXT_DIM, TEXT_LEN, class_net, text_net, video_net
from tests.models.transfers import NOWHERE, Transfers

FAMILIES = {
    "nova_train_t2i": (text_net, DDPMScheduler),
    "nova_train_t2v": (video_net, FlowMatchEulerDiscreteScheduler),
    "nova_train_c2i": (class_net, DDPMScheduler),
}
VAE = {"scaling_factor": 0.5, "shift_factor": 0.25}
INDEX = torch.arange(6)


def family(name, **options):
    make, scheduler = FAMILIES[name]
    pipe = PIPELINES.get(name)(make(), scheduler(), vae_config=VAE, loss_repeat=2, **options)
    pipe.configure()
    return pipe


def batch_of(name, index=INDEX):
    """The records of a cache with these numbers."""
    frames = 3 if name == "nova_train_t2v" else 1
    generator = torch.Generator().manual_seed(0)
    moments = torch.randn(len(INDEX), 8, frames, 8, 8, generator=generator).half()
    prompts = list(torch.randn(len(INDEX), 4, TEXT_DIM, generator=generator))
    return Batch(
        moments[index],
        index=index,
        epoch=torch.zeros_like(index),
        prompts=[prompts[i] for i in index],
        labels=10 * index,
        flow=index.float(),
    )


def prepared(pipe, name, index=INDEX, step=4):
    batch = batch_of(name, index)
    return pipe.prepare(batch, draws=Draws(3, step, batch.keys()))


@pytest.mark.parametrize("name", FAMILIES)
def test_micro_batches_give_the_loss_and_gradient_of_the_batch(name):
    pipe = family(name)

    def learned(parts):
        pipe.model.zero_grad()
        outputs = [pipe.loss(pipe.model, prepared(pipe, name, part)) for part in parts]
        loss = sum(output.loss for output in outputs) / len(parts)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in pipe.model.named_parameters() if p.requires_grad}
        return loss, gradients

    whole, halves = learned([INDEX]), learned([INDEX[:3], INDEX[3:]])
    torch.testing.assert_close(whole[0], halves[0])
    for key, gradient in whole[1].items():  # sums in another order
        torch.testing.assert_close(gradient, halves[1][key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_losses_of_samples_are_those_of_batches_of_one(name):
    pipe = family(name)
    output = pipe.loss(pipe.model, prepared(pipe, name))
    alone = [pipe.loss(pipe.model, prepared(pipe, name, INDEX[i : i + 1])).loss for i in INDEX]
    assert not output.per_sample.requires_grad
    torch.testing.assert_close(output.per_sample, torch.stack(alone).detach())
    torch.testing.assert_close(output.per_sample.mean(), output.loss.detach())


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_levels_are_those_that_the_loss_is_computed_at(name, monkeypatch):
    pipe, seen = family(name), []
    add_noise = pipe.scheduler.add_noise

    def spy(x0, noise, timesteps):
        ones = torch.ones_like(timesteps, dtype=torch.float32)
        seen.append(add_noise(torch.zeros_like(ones), ones, timesteps))  # the noise's own factor
        return add_noise(x0, noise, timesteps)

    monkeypatch.setattr(pipe.scheduler, "add_noise", spy)
    inputs = prepared(pipe, name)
    pipe.loss(pipe.model, inputs)
    levels = pipe.noise_levels(inputs.latents.shape, Draws(3, 4, inputs.batch.keys()))
    applied = seen[0].unflatten(1, (len(INDEX), -1)).transpose(0, 1).flatten(1)  # (B, R * T * K)
    torch.testing.assert_close(levels.sort().values, applied.sort().values)


@pytest.mark.parametrize("name", FAMILIES)
def test_everything_that_learns_has_a_gradient(name):
    pipe = family(name)
    pipe.loss(pipe.model, prepared(pipe, name)).loss.backward()
    with_gradient = {n for n, p in pipe.model.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, p in pipe.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_that_of_all_tokens_times_the_mask(name):
    """A second route: predict every token, weigh with the mask, as the published model does."""
    pipe = family(name)
    net, inputs = pipe.model, prepared(pipe, name)
    draws = pipe.draw(inputs)
    output = pipe.loss(net, inputs, draws=draws)
    frames = inputs.latents.transpose(1, 2).flatten(0, 1)
    patches, size, repeats = net.patchify(frames), frames.shape[-2:], len(draws.noise)
    ids = torch.cat([draws.masked_ids, draws.visible_ids], dim=1)
    rest = draws.visible_ids.size(1)
    timesteps = torch.cat([draws.timesteps, torch.zeros(repeats, len(ids), rest).long()], dim=2)
    noise = torch.cat([draws.noise, torch.zeros(repeats, len(ids), rest, 16)], dim=2)
    mask = torch.cat([torch.ones_like(draws.masked_ids), torch.zeros_like(draws.visible_ids)], 1)
    with torch.no_grad():
        video = net.encode_video(inputs.latents, net.embed(**inputs.cond))
        z = net.encode_image(patches, video, draws.visible_ids, size)
        z = select(z, ids).expand(repeats, -1, -1, -1)
        x0 = select(patches, ids).expand(repeats, -1, -1, -1)
        x_t = pipe.scheduler.add_noise(x0, noise, timesteps)
        prediction = net.image_decoder(x_t, pipe.scheduler.model_timesteps(timesteps), z)
        error = (prediction - pipe.scheduler.target(x0, noise, timesteps)).square().mean(-1)
        weighted = error * mask / (repeats * mask.sum() + 1e-5)
    if name != "nova_train_t2v":
        assert set(output.metrics) == {"loss"}
        torch.testing.assert_close(output.loss.detach(), weighted.sum())
        return
    by_frame = weighted.unflatten(1, (len(INDEX), 3)).sum((0, 1, 3))
    torch.testing.assert_close(output.metrics["loss_t2i"], 3 * by_frame[0])
    torch.testing.assert_close(output.metrics["loss_i2i"], 1.5 * by_frame[1:].sum())
    torch.testing.assert_close(output.loss.detach(), sum(output.metrics.values()))


@pytest.mark.parametrize("name", FAMILIES)
def test_latents_are_drawn_from_the_posterior_and_scaled(name):
    inputs = prepared(family(name), name)
    mean, logvar = batch_of(name).moments.float().chunk(2, dim=1)
    noise = (inputs.latents / 0.5 + 0.25 - mean) / (0.5 * logvar).exp()
    again = prepared(family(name), name, INDEX[2:3])
    torch.testing.assert_close(again.latents[0], inputs.latents[2])
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
    assert abs(noise.std() - 1) < 4 / noise.numel() ** 0.5


def test_latents_of_moments_that_share_one_log_variance():
    pipe, name = family("nova_train_t2v"), "nova_train_t2v"
    batch = batch_of(name)
    shared = replace(batch, moments=batch.moments[:, :5])
    whole = replace(batch, moments=torch.cat([shared.moments, *[shared.moments[:, 4:]] * 3], dim=1))
    found, wanted = (pipe.prepare(one, draws=Draws(3, 4, one.keys())) for one in (shared, whole))
    assert torch.equal(found.latents, wanted.latents)


def test_prompts_and_classes_are_dropped_for_the_same_samples():
    share = 0.75
    text = prepared(family("nova_train_t2i", dropout=share), "nova_train_t2i").cond
    labels = prepared(family("nova_train_c2i", dropout=share), "nova_train_c2i").cond["labels"]
    dropped = labels == 1000
    assert 0 < dropped.sum() < len(INDEX)
    assert torch.equal(labels[~dropped], (10 * INDEX)[~dropped])
    assert torch.equal(text["text_length"] == 0, dropped)
    assert (text["text_length"][~dropped] == 4).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_that_is_dropped(share):
    keys = [(0, i) for i in range(400)]
    pipe = family("nova_train_c2i", dropout=share)
    numbers = torch.arange(400)
    batch = Batch(
        torch.zeros(400, 8, 1, 8, 8).half(), numbers, torch.zeros_like(numbers), labels=numbers
    )
    labels = pipe.prepare(batch, draws=Draws(3, 4, keys)).cond["labels"]
    dropped = (labels == 1000).float().mean().item()
    assert abs(dropped - share) <= 4 * (share * (1 - share) / 400) ** 0.5


def test_videos_are_told_their_motion():
    cond = prepared(family("nova_train_t2v"), "nova_train_t2v").cond
    assert cond["flow"].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(cond["fps"].tolist()) == {12.0}
    pipe, batch = family("nova_train_t2v"), replace(batch_of("nova_train_t2v"), flow=None)
    still = pipe.prepare(batch, draws=Draws(3, 4, batch.keys())).cond
    assert set(still["flow"].tolist()) == {5.0}


class NowhereDraws(Draws):
    """Numbers without values on a device without memory."""

    def stream(self, name):
        return self

    def randn(self, *shape):
        return torch.empty(len(self), *shape, device=self.device)

    rand = randn


@pytest.mark.parametrize("name", FAMILIES)
def test_the_host_does_not_wait_for_the_batch(name):
    pipe, batch = family(name), batch_of(name)
    pipe.model.to(NOWHERE)
    draws = NowhereDraws(3, 4, batch.keys(), device=NOWHERE)
    with Transfers() as transfers:
        there = batch.to(NOWHERE)
        moved = len(transfers.seen)
        inputs = pipe.prepare(there, draws=draws)
    assert inputs.latents.device == NOWHERE
    assert all(value.device == NOWHERE for value in inputs.cond.values())
    assert (tuple(batch.moments.shape), True) in transfers.seen[:moved]
    assert all(free for _, free in transfers.seen), transfers.seen
    text = inputs.cond.get("text")
    padded = [] if text is None else [tuple(text.shape), (len(INDEX),)]  # states and lengths
    assert [shape for shape, _ in transfers.seen[moved:]] == padded


def test_the_share_of_masked_tokens_is_common_to_the_global_batch():
    pipe, name = family("nova_train_t2i"), "nova_train_t2i"
    counts = {
        step: [
            pipe.draw(prepared(pipe, name, part, step)).visible_ids.size(1)
            for part in (INDEX, INDEX[:2], INDEX[4:])
        ]
        for step in range(8)
    }
    assert all(len(set(of_step)) == 1 for of_step in counts.values())
    assert len({of_step[0] for of_step in counts.values()}) > 1
    assert all(0 <= of_step[0] <= 5 for of_step in counts.values())  # at most 30 % of 16


def test_each_frame_has_an_order_and_each_masked_token_a_timestep_and_noise_of_its_own():
    pipe = family("nova_train_t2v")
    draws = pipe.draw(prepared(pipe, "nova_train_t2v"))
    order = torch.cat([draws.visible_ids, draws.masked_ids], dim=1)  # (6 * 3, 16)
    assert torch.equal(order.sort(dim=1).values, torch.arange(16).expand(18, -1))
    assert len(order.unique(dim=0)) == 18
    count = draws.timesteps.numel()
    assert draws.timesteps.shape == (2, 18, draws.masked_ids.size(1))
    assert len(draws.noise.flatten(0, 2).unique(dim=0)) == count
    # logit-normal over 1000 places: the chance of two tokens at one place is that of a sum of squares
    share = torch.distributions.Normal(0, 1).cdf(torch.linspace(0, 1, 1001).logit()).diff()
    wanted = (1 - (1 - share) ** count).sum()
    assert abs(len(draws.timesteps.unique()) - wanted) < 5 * wanted**0.5


def test_mask_ratios():
    """The share of a normal distribution around 1, cut to [0.7, 1], that lies below one is uniform."""
    generator, wanted = (torch.Generator().manual_seed(0) for _ in range(2))
    normal = torch.distributions.Normal(1.0, 0.25)
    ends = normal.cdf(torch.tensor([0.7, 1.0], dtype=torch.float64))
    for _ in range(50):
        ratio = torch.tensor(mask_ratio(generator), dtype=torch.float64)
        below = (normal.cdf(ratio) - ends[0]) / (ends[1] - ends[0])
        uniform = torch.rand(1, generator=wanted, dtype=torch.float64)[0]
        torch.testing.assert_close(below, uniform, rtol=0, atol=1e-9)


def test_the_published_share_of_dropped_prompts_and_number_of_repeats():
    make, scheduler = FAMILIES["nova_train_t2i"]
    pipe = PIPELINES.get("nova_train_t2i")(make(), scheduler(), vae_config=VAE)
    assert (pipe.dropout, pipe.loss_repeat) == (0.1, 4)


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [("nova_train_t2i", "prompts", "no prompt"), ("nova_train_c2i", "labels", "no label")],
)
def test_records_that_lack_the_condition(name, field, message):
    pipe, batch = family(name), replace(batch_of(name), **{field: None})
    with pytest.raises(ValueError, match=message):
        pipe.prepare(batch, draws=Draws(3, 4, batch.keys()))


@pytest.mark.parametrize("name", FAMILIES)
def test_data_that_fit_the_network(name):
    text = name != "nova_train_c2i"
    found = PIPELINES.get(name).expects(FAMILIES[name][0]().config)
    assert (found.channels, found.size, found.classes) == (4, (8, 8), None if text else 1000)
    assert (found.text_width, found.text_length) == ((TEXT_DIM, TEXT_LEN) if text else (None, None))
    assert found.frames == (3 if name == "nova_train_t2v" else 1)


def test_classes_that_do_not_exist():
    pipe, batch = family("nova_train_c2i"), batch_of("nova_train_c2i")
    labels = torch.tensor([0, 999, 1000, -1, 5, 1])  # 1000 is the row of no class
    with pytest.raises(ValueError, match=r"records \[2, 3\] have labels \[1000, -1\]; 0 to 999"):
        pipe.prepare(replace(batch, labels=labels), draws=Draws(3, 4, batch.keys()))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_frozen(name):
    pipe = family(name)
    pipe.model.eval()
    pipe.configure()
    frozen = {n for n, p in pipe.model.named_parameters() if not p.requires_grad}
    starts = ("text_embed.norm", "label_embed.norm", "motion_embed")
    if name != "nova_train_t2v":
        starts += ("video_pos_embed", "video_encoder.patch_embed")
    assert frozen == {n for n, _ in pipe.model.named_parameters() if n.startswith(starts)}
    assert pipe.model.training
