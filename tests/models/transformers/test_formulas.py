# SPDX-License-Identifier: Apache-2.0
"""NOVA's forward against a second one: one sample and one frame at a time, from the saved names alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.models.tiny import text_net
from tests.models.transformers.test_transformer_3d import inputs

ARCH = ("vit_d2w128", "vit_d4w128", "mlp_d2w48")  # two heads
VIDEO = {"video_base_size": (3, 2, 2)}
CASES = {
    "picture": ({}, 1),
    "picture, rotary": ({"rotary_pos_embed": True}, 1),
    "class": ({"text_token_dim": None, "text_token_len": None}, 1),
    "video": (VIDEO, 3),
    "video, shorter than the base": (VIDEO, 2),
    "video, mixer": (VIDEO | {"video_mixer_rank": 4}, 3),
    "video, rotary": (VIDEO | {"rotary_pos_embed": True}, 3),
    "video, rotary, mixer": (VIDEO | {"rotary_pos_embed": True, "video_mixer_rank": 4}, 3),
}


class Written:
    """The formulas, with the weights of a state dict; `asked` are the names that they took."""

    def __init__(self, state: dict[str, Tensor], config) -> None:
        self.state, self.config, self.asked = state, config, set()
        self.rotary = config.rotary_pos_embed

    def __getitem__(self, name: str) -> Tensor:
        self.asked.add(name)
        return self.state[name]

    def linear(self, x: Tensor, name: str) -> Tensor:
        y = x @ self[f"{name}.weight"].T
        return y + self[f"{name}.bias"] if f"{name}.bias" in self.state else y

    def norm(self, x: Tensor, name: str, *, eps: float = 1e-5) -> Tensor:
        return plain_norm(x, eps) * self[f"{name}.weight"] + self[f"{name}.bias"]

    def silu_mlp(self, x: Tensor, first: str, second: str) -> Tensor:
        return self.linear(silu(self.linear(x, first)), second)

    def block(self, x: Tensor, name: str, seen: Tensor, turn: Tensor | None) -> Tensor:
        q, k, v = self.linear(x, f"{name}.attn.qkv").chunk(3, -1)
        out = []
        for head in range(q.size(-1) // 64):
            one, two, three = (part[:, 64 * head : 64 * head + 64] for part in (q, k, v))
            if turn is not None:
                one, two = turned(one, turn), turned(two, turn)
            scores = (one @ two.T / 8).masked_fill(~seen, -torch.inf)
            out.append(scores.softmax(-1) @ three)
        x = x + self.norm(self.linear(torch.cat(out, -1), f"{name}.attn.proj"), f"{name}.norm1")
        hidden = self.linear(x, f"{name}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return x + self.norm(self.linear(hidden, f"{name}.mlp.fc2"), f"{name}.norm2")

    def patches(self, frame: Tensor, name: str, patch: int) -> Tensor:
        """(C, H, W) to (N, D)."""
        weight, bias = self[f"{name}.proj.weight"], self[f"{name}.proj.bias"]
        return F.conv2d(frame[None], weight, bias, stride=patch)[0].flatten(1).T

    def condition(self, cond: dict[str, Tensor], b: int) -> Tensor:
        """(L, D) of one sample."""
        if "labels" in cond:
            return self.norm(
                self["label_embed.weight"][cond["labels"][b : b + 1]], "label_embed.norm"
            )
        rows = []
        for i, states in enumerate(cond["text"][b]):
            rows.append(states if i < cond["text_length"][b] else self["text_embed.weight"][i])
        tokens = self.norm(self.linear(torch.stack(rows), "text_embed.proj"), "text_embed.norm")
        for kind in ("flow", "fps"):
            if kind in cond:
                name = f"motion_embed.{kind}_proj"
                token = self.silu_mlp(wave(cond[kind][b].item()), f"{name}.0", f"{name}.2")
                tokens = torch.cat([tokens, token[None]])
        return tokens

    def video(self, frames: Tensor, cond: Tensor) -> list[Tensor]:
        """(C, T, H, W) and (L, D) to (M, D) for each frame."""
        count, side = frames.size(1), 2  # 8 x 8 latents, patches of 4
        slots = [self["mask_embed.bos_token"].expand(side * side, -1)]
        for t in range(count - 1):
            slots.append(self.patches(frames[:, t], "video_encoder.patch_embed", 4))
        if not self.rotary:
            slots = [x + self.place(side) + self.time(t, count) for t, x in enumerate(slots)]
        x = torch.cat([cond, *slots])
        block = torch.tensor([0] * len(cond) + [t for t in range(count) for _ in range(side**2)])
        seen = block[:, None] >= block
        turn = self.turn(
            [(t, h, w) for t in range(count) for h in (0, 1) for w in (0, 1)], len(cond)
        )
        for i in range(2):
            x = self.block(x, f"video_encoder.blocks.{i}", seen, turn)
        x = self.norm(x, "video_encoder.norm")[len(cond) :].unflatten(0, (count, -1))
        if not self.config.video_mixer_rank or count == 1:
            return list(x)
        name = "video_encoder.mixer"
        later = []
        for c in x[1:]:
            scale, shift = self.linear(self.linear(silu(c), f"{name}.lora"), f"{name}.proj").chunk(
                2, -1
            )
            later.append(x[0] * (1 + scale) + shift)
        return [x[0], *later]

    def place(self, side: int) -> Tensor:
        """Absolute positions of a grid, (side * side, D)."""
        freqs = [1e4 ** (-i / 32) for i in range(32)]
        rows = []
        for h in range(side):
            for w in range(side):
                parts = [f(p * q) for p in (w, h) for f in (math.sin, math.cos) for q in freqs]
                rows.append(torch.tensor(parts))
        return torch.stack(rows)

    def time(self, t: int, count: int) -> Tensor:
        name = "video_pos_embed"
        scaled = t * self.config.video_base_size[0] / count
        return self.norm(
            self.silu_mlp(wave(scaled), f"{name}.time_proj.0", f"{name}.time_proj.2"),
            f"{name}.norm",
        )

    def turn(self, positions: list[tuple[int, int, int]], prefix: int) -> Tensor | None:
        """Complex factors (prefix + N, 32) of heads of 64: 8 for t, 28 each for h and w."""
        if not self.rotary:
            return None
        rows = [[0.0] * 32] * prefix
        for place in positions:
            shares = zip(place, (8, 28, 28), strict=True)
            rows.append(
                [p * 1e4 ** (-2 * i / share) for p, share in shares for i in range(share // 2)]
            )
        angle = torch.tensor(rows)
        return torch.polar(torch.ones_like(angle), angle)

    def image(self, frame: Tensor, cond: Tensor, visible: list[int]) -> Tensor:
        """(C, H, W), (M, D) and the visible places to (N, D)."""
        tokens = self["mask_embed.mask_token"].repeat(16, 1)
        tokens[visible] = self.patches(frame, "image_encoder.patch_embed", 2)[visible]
        if not self.rotary:
            tokens = tokens + self.place(4)
        grid = [(0, h, w) for h in range(4) for w in range(4)]
        whole, near = self.turn(grid, len(cond)), self.turn([grid[i] for i in visible], len(cond))
        x = torch.cat([cond, tokens[visible]])
        for i in range(2):
            x = self.block(x, f"image_encoder.blocks.{i}", torch.tensor(True), near)
        tokens[visible] = x[len(cond) :]
        x = torch.cat([x[: len(cond)], tokens])
        for i in (2, 3):
            x = self.block(x, f"image_encoder.blocks.{i}", torch.tensor(True), whole)
        return self.norm(x, "image_encoder.norm")[len(cond) :]

    def denoise(self, noisy: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        """(P,), () and (D,) to (P,): one token; a patch is (row, column, channel)."""
        name = "image_decoder"
        embed = f"{name}.time_cond_embed"
        angles = [timestep.item() * math.exp(-math.log(1e4) * i / 128) for i in range(128)]
        waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        z = self.silu_mlp(waves, f"{embed}.timestep_proj.fc1", f"{embed}.timestep_proj.fc2")
        z = z + self.silu_mlp(cond, f"{embed}.condition_proj.fc1", f"{embed}.condition_proj.fc2")
        patch = noisy.view(2, 2, 4).permute(2, 0, 1)  # (C, row, column)
        x = self.patches(patch, f"{name}.patch_embed", 2)[0]
        for i in range(2):
            block = f"{name}.blocks.{i}"
            scale, shift, gate = self.linear(silu(z), f"{block}.norm1.proj").chunk(3)
            h = plain_norm(x, 1e-6) * (1 + scale) + shift
            h = self.silu_mlp(h, f"{block}.proj.fc1", f"{block}.proj.fc2")
            x = x + self.norm(h, f"{block}.norm2") * gate
        scale, shift = self.linear(silu(z), f"{name}.norm.proj").chunk(2)
        return self.linear(plain_norm(x, 1e-6) * (1 + scale) + shift, f"{name}.head")

    def forward(self, latents: Tensor, cond: dict[str, Tensor], draws: dict[str, Tensor]) -> Tensor:
        found = torch.zeros_like(draws["noisy"])
        for b in range(len(latents)):
            videos = self.video(latents[b], self.condition(cond, b))
            for t, video in enumerate(videos):
                frame = b * len(videos) + t
                visible = draws["visible_ids"][frame].tolist()
                z = self.image(latents[b, :, t], video, visible)
                for k, place in enumerate(draws["masked_ids"][frame].tolist()):
                    for r in range(len(found)):
                        token = draws["noisy"][r, frame, k], draws["timestep"][r, frame, k]
                        found[r, frame, k] = self.denoise(*token, z[place])
        return found


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def plain_norm(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def wave(value: float) -> Tensor:
    """Sines, then cosines at 128 frequencies."""
    angles = [value * 1e4 ** (-i / 128) for i in range(128)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def turned(x: Tensor, turn: Tensor) -> Tensor:
    pairs = torch.complex(x[:, 0::2].contiguous(), x[:, 1::2].contiguous()) * turn
    return torch.stack([pairs.real, pairs.imag], -1).flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_the_forward_is_what_its_formulas_say(case):
    options, frames = CASES[case]
    net = text_net(arch=ARCH, **options).eval()
    latents, cond, draws = inputs(net, frames=frames, repeats=1, visible=11)
    if case == "class":
        cond = {"labels": torch.tensor([3, 1000])}
    written = Written(net.state_dict(), net.config)
    wanted = written.forward(latents, cond, draws)
    found = net(latents, cond, **draws)
    # sums in another order, of values around 10
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    unasked = set(net.state_dict()) - written.asked
    if frames == 1:  # no frame before, no motion
        assert all(name.startswith("video_encoder.patch_embed") for name in unasked)
    else:
        assert not unasked
