# SPDX-License-Identifier: Apache-2.0
"""What NOVA's forward may depend on, and two routes to each of its results."""

import pytest
import torch

from diffnext.models.attention import KVCache
from diffnext.models.transformers.transformer_3d import select
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel, parse_arch
from tests.models.tiny import CONFIG, TEXT_DIM, TEXT_LEN, class_net, text_net, video_net

NETS = {
    "absolute": lambda: video_net(rotary=False),
    "rotary": lambda: video_net(rotary=True),
    "no mixer": lambda: video_net(mixer=None),
}


def inputs(net, *, frames=3, batch=2, visible=5, repeats=2, seed=0):
    """Arguments of a training forward."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(batch * frames, 16, generator=generator).argsort(-1)
    shape = (repeats, batch * frames, 16 - visible)
    cond = {
        "text": torch.randn(batch, TEXT_LEN, TEXT_DIM, generator=generator),
        "text_length": torch.tensor([3, 0])[:batch],
    }
    if net.has_motion:
        cond |= {"flow": torch.tensor([5.0, 3.0])[:batch], "fps": torch.full((batch,), 12.0)}
    latents = torch.randn(batch, 4, frames, 8, 8, generator=generator)
    draws = {
        "visible_ids": order[:, :visible],
        "masked_ids": order[:, visible:],
        "noisy": torch.randn(*shape, 16, generator=generator),
        "timestep": torch.rand(shape, generator=generator) * 1000,
    }
    return latents, cond, draws


@pytest.mark.parametrize("kind", NETS)
def test_frames_at_once_equal_frames_one_by_one(kind):
    net = NETS[kind]()
    latents, cond, _ = inputs(net)
    cond = net.embed(**cond)
    whole = net.encode_video(latents, cond).unflatten(0, (2, 3))
    cache, first = KVCache(2), None
    for number in range(3):
        tokens = net.first_tokens(2, (8, 8))
        if number > 0:
            tokens = net.video_tokens(latents[:, :, number - 1 : number])
        prefix = cond if number == 0 else None
        frame = torch.tensor([number])
        found = net.encode_frames(tokens, frame, 3, (8, 8), cond=prefix, cache=cache)
        first = found if number == 0 else first
        found = found if number == 0 else net.mix(first, found)
        torch.testing.assert_close(found, whole[:, number])


@pytest.mark.parametrize("kind", NETS)
def test_a_frame_knows_the_frames_before_and_its_visible_tokens(kind):
    net = NETS[kind]()
    latents, cond, draws = inputs(net)

    def influence(changed):
        """Which frames' predictions change with `changed` (B, C, T, H, W)."""
        difference = net(latents, cond, **draws) - net(changed, cond, **draws)
        return difference.unflatten(1, (2, 3)).abs().amax((0, 1, 3, 4)) > 1e-5

    later = latents.clone()
    later[:, :, 1] += 1
    assert influence(later).tolist() == [False, True, True]
    frames = net.patchify(latents.transpose(1, 2).flatten(0, 1))  # (B * T, N, P)
    hidden = draws["masked_ids"].unsqueeze(-1).expand(-1, -1, 16)
    frames = frames.scatter(1, hidden, 7.0)
    masked = net.unpatchify(frames, 8, 8).unflatten(0, (2, 3)).transpose(1, 2)
    masked[:, :, :2] = latents[:, :, :2]  # what is masked in the last frame is seen by nobody
    assert influence(masked).tolist() == [False, False, False]


def test_samples_are_independent():
    net = video_net()
    latents, cond, draws = inputs(net)
    whole = net(latents, cond, **draws)
    own = {name: value[1:] for name, value in cond.items()}
    parts = {name: value[3:] for name, value in draws.items() if name.endswith("ids")}
    parts |= {name: draws[name][:, 3:] for name in ("noisy", "timestep")}
    torch.testing.assert_close(net(latents[1:], own, **parts), whole[:, 3:])


@pytest.mark.parametrize("visible", [0, 5, 16])
def test_any_number_of_tokens_may_be_visible(visible):
    net = text_net()
    latents, cond, draws = inputs(net, frames=1, visible=visible)
    assert net(latents, cond, **draws).shape == (2, 2, 16 - visible, 16)


def test_the_order_of_visible_tokens_does_not_matter():
    net = video_net()
    latents, cond, draws = inputs(net)
    turned = draws | {"visible_ids": draws["visible_ids"].flip(1)}
    torch.testing.assert_close(net(latents, cond, **draws), net(latents, cond, **turned))


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("kind", ["absolute", "rotary"])
def test_checkpointing_gives_the_same_gradients(kind, level):
    net = NETS[kind]().train()
    latents, cond, draws = inputs(net)

    def gradients(level):
        net.zero_grad()
        net.set_checkpointing(level)
        net(latents, cond, **draws).square().mean().backward()
        return {name: p.grad.clone() for name, p in net.named_parameters()}

    kept, recomputed = gradients(0), gradients(level)
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


@pytest.mark.parametrize("level", range(4))
def test_what_a_checkpointing_level_computes_again(level):
    net, calls = video_net().train(), []
    parts = [net.video_encoder.blocks[0].mlp, net.image_encoder.blocks[0].mlp]
    parts.append(net.image_decoder.blocks[0])
    for number, part in enumerate(parts):
        part.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    net.set_checkpointing(level)
    latents, cond, draws = inputs(net)
    net(latents, cond, **draws).square().mean().backward()
    assert [calls.count(number) for number in range(3)] == [1 + (level > n) for n in range(3)]


def test_a_checkpointing_level_that_does_not_exist():
    with pytest.raises(ValueError, match="level is 4"):
        text_net().set_checkpointing(4)


@pytest.mark.parametrize("make", [text_net, video_net, class_net])
def test_saved_and_loaded(make, tmp_path):
    net = make()
    net.save_pretrained(tmp_path)
    loaded, info = NOVATransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    for name, value in net.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_half_precision_is_near_single():
    net = video_net()
    latents, cond, draws = inputs(net)
    single = net(latents, cond, **draws)
    half = net.to(torch.bfloat16)(latents, cond, **draws)
    assert half.dtype == torch.bfloat16
    error = (half.float() - single).norm() / single.norm()
    assert error < 0.05  # bfloat16 has 8 bits


def test_a_new_network_predicts_nothing_and_learns_everything():
    net = NOVATransformer3DModel(**CONFIG | {"video_base_size": (3, 2, 2)}).train()
    latents, cond, draws = inputs(net)
    prediction = net(latents, cond, **draws)
    assert not prediction.any()
    for _ in range(4):  # each step wakes a layer behind a zero
        net.zero_grad()
        (net(latents, cond, **draws) - 1).square().mean().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.sub_(0.1 * parameter.grad)
    idle = [name for name, p in net.named_parameters() if not p.grad.any()]
    assert not idle


@pytest.mark.parametrize("kind", NETS)
def test_a_training_forward_is_one_graph(kind):
    """Nothing in it waits for the device or leaves the compiler; traced, it gives the same."""
    net = NETS[kind]().train()
    latents, cond, draws = inputs(net)
    traced = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(latents, cond, **draws), net(latents, cond, **draws))


def test_select():
    tokens, ids = torch.randn(2, 4, 3), torch.tensor([[3, 0], [1, 1]])
    wanted = torch.stack([tokens[b, ids[b]] for b in range(2)])
    assert torch.equal(select(tokens, ids), wanted)


@pytest.mark.parametrize(("stride", "patch"), [(4, 4), (8, 2), (16, 1), (32, 1)])
def test_patches_make_up_for_the_stride_of_the_autoencoder(stride, patch):
    net = text_net(image_stride=stride)
    encoders = net.image_encoder, net.image_decoder, net.video_encoder
    assert [one.patch_embed.patch for one in encoders] == [patch, patch, 2 * patch]
    assert net.latent_size == (64 // stride, 64 // stride)


@pytest.mark.parametrize("name", ["vit_d2", "mlp_d2w64", "vit_dXw64", "xvit_d2w64"])
def test_an_architecture_that_does_not_exist(name):
    with pytest.raises(ValueError, match=f"{name!r}, wanted vit_d"):
        parse_arch(name, "vit")


def test_encoders_of_two_widths():
    with pytest.raises(ValueError, match="width 64 and 32"):
        text_net(arch=("vit_d2w64", "vit_d2w32", "mlp_d2w16"))
