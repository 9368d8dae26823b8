# SPDX-License-Identifier: Apache-2.0
"""Tokenizer and text encoder of the models in assets/, made from captions of the shapes world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from diffnext.shapes import ATTRIBUTES, VALUES, caption, parse_prompt, random_scene, short_caption

TEXT_WIDTH = 96  # of the text encoder's states
END = "<|endoftext|>"


def sentences(count: int, seed: int) -> list[str]:
    """Captions of training scenes: long, short, and parts of long ones in other orders."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        scene = random_scene(rng, "train", video=bool(rng.integers(2)))
        kind = rng.integers(4)
        if kind == 0:
            texts.append(short_caption(scene))
        elif kind == 1:
            texts.append(reworded(scene, rng))
        else:
            texts.append(caption(scene))
    return texts


def reworded(scene, rng: np.random.Generator) -> str:
    """What a user might type in place of the caption."""
    article = ("", "a ", "the ", "A ")[rng.integers(4)]
    size = f"{scene.size} " if rng.integers(2) else ""
    tail = [f"at the {scene.place}", f"on a {scene.background} background"]
    if scene.direction is not None:
        tail.append(f"moving {scene.direction} {scene.speed}")
    chosen = [tail[i] for i in rng.permutation(len(tail))[: rng.integers(len(tail) + 1)]]
    joint = ", " if rng.integers(4) == 0 else " "
    return (
        joint.join([f"{article}{size}{scene.colour} {scene.shape}", *chosen])
        + (".", "")[rng.integers(2)]
    )


def write_tokenizer(folder: Path) -> None:
    """Byte-level pairs in the layout of CodeGen: every word of the captions is one token."""
    from tokenizers import ByteLevelBPETokenizer

    words = {word for text in sentences(4000, 0) for word in text.replace(",", " ,").split()}
    words |= {word.strip(".,") for word in words} | {"grey", "centre", "middle", "video", "picture"}
    texts = [variant for word in sorted(words) for variant in (word, f" {word}")]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size=2000, min_frequency=1, show_progress=False, special_tokens=[]
    )
    tokenizer.add_special_tokens([END])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_model(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary[END] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    write_json(folder / "special_tokens_map.json", {**special, "pad_token": END})
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CodeGenTokenizer",
            "model_max_length": 512,
            **special,
            "add_prefix_space": False,
        },
    )


def train_text_encoder(folder: Path, steps: int) -> None:
    """Train a small Phi as a language model that also keeps in mind what it has read.

    Three losses: the next token, the token itself, and by linear maps every attribute named so far.
    """
    import torch
    from torch import nn
    from tqdm import tqdm
    from transformers import CodeGenTokenizerFast

    torch.manual_seed(0)
    tokenizer = CodeGenTokenizerFast.from_pretrained(folder / "tokenizer")
    model = language_model(tokenizer)
    itself = nn.Linear(TEXT_WIDTH, len(tokenizer))
    said = nn.Linear(TEXT_WIDTH, sum(1 + len(VALUES[key]) for key in ATTRIBUTES))
    ids, labels = tokenised(tokenizer, sentences(6000, 1))
    params = [p for module in (model, itself, said) for p in module.parameters()]
    optimizer = torch.optim.AdamW(params, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in tqdm(range(steps), desc="text encoder", unit="step", mininterval=2.0):
        rows = torch.randint(len(ids), (32,), generator=generator)
        optimizer.zero_grad()
        text_loss(model, itself, said, ids[rows], labels[rows]).backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder / "text_encoder")
    path = folder / "text_encoder" / "config.json"
    write_json(path, {**json.loads(path.read_text()), "architectures": ["PhiEncoderModel"]})
    (folder / "text_encoder" / "generation_config.json").unlink(missing_ok=True)


def language_model(tokenizer):
    """A small Phi with random weights."""
    from transformers import PhiConfig, PhiForCausalLM

    end = tokenizer.convert_tokens_to_ids(END)
    config = PhiConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=end,
        eos_token_id=end,
    )
    return PhiForCausalLM(config)


def text_loss(model, itself, said, ids, labels):
    """The three losses of token ids (B, L) and attributes (B, L, 7), added up."""
    states = model.model(input_ids=ids.clamp(min=0)).last_hidden_state  # (B, L, D)
    loss = read_loss(model.lm_head(states[:, :-1]), ids[:, 1:]) + read_loss(itself(states), ids)
    logits = said(states).split([1 + len(VALUES[key]) for key in ATTRIBUTES], dim=-1)
    return loss + sum(read_loss(one, labels[..., i]) for i, one in enumerate(logits))


def read_loss(logits, target):
    """Cross entropy of (B, L, V) against (B, L); -1 does not count."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)


def tokenised(tokenizer, texts: list[str]):
    """Token ids (N, L), and the attributes named up to each token (N, L, 7): 0 is none; -1 pads."""
    import torch

    encoded = [tokenizer(text, return_offsets_mapping=True) for text in texts]
    length = max(len(one.input_ids) for one in encoded)
    ids = torch.full((len(texts), length), -1)
    labels = torch.full((len(texts), length, len(ATTRIBUTES)), -1)
    for row, (text, one) in enumerate(zip(texts, encoded, strict=True)):
        ids[row, : len(one.input_ids)] = torch.tensor(one.input_ids)
        for place, (_, stop) in enumerate(one.offset_mapping):
            names = parse_prompt(text[:stop])
            found = [1 + VALUES[key].index(names[key]) if key in names else 0 for key in ATTRIBUTES]
            labels[row, place] = torch.tensor(found)
    return ids, labels


def probe(folder: Path) -> dict[str, float]:
    """Share of held-out captions whose last state tells an attribute, by least squares on training ones."""
    import torch
    from transformers import CodeGenTokenizerFast

    from diffnext.models.text_encoders.phi import PhiEncoderModel

    tokenizer = CodeGenTokenizerFast.from_pretrained(folder / "tokenizer")
    encoder = PhiEncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    parts = {}
    for split in ("train", "heldout"):
        rng = np.random.default_rng(5)
        scenes = [random_scene(rng, split, video=True) for _ in range(1500)]
        states = last_states(tokenizer, encoder, [caption(scene) for scene in scenes])
        parts[split] = states, [scene.names() for scene in scenes]
    shares = {}
    for key in ATTRIBUTES:
        (x, names), (y, wanted) = parts["train"], parts["heldout"]
        target = torch.eye(len(VALUES[key]))[[VALUES[key].index(one[key]) for one in names]]
        solution = torch.linalg.lstsq(x, target, driver="gelsd").solution
        found = (y @ solution).argmax(1).tolist()
        right = [VALUES[key][i] == one[key] for i, one in zip(found, wanted, strict=True)]
        shares[key] = round(sum(right) / len(right), 4)
    return shares


def last_states(tokenizer, encoder, texts: list[str]):
    """States of the last tokens and a constant, (N, D + 1)."""
    import torch

    ids = [tokenizer(text).input_ids for text in texts]
    longest = max(map(len, ids))
    padded = torch.tensor([one + [0] * (longest - len(one)) for one in ids])
    with torch.no_grad():
        states = encoder(padded).last_hidden_state
    last = torch.tensor([len(one) - 1 for one in ids])
    return torch.cat([states[torch.arange(len(ids)), last], torch.ones(len(ids), 1)], 1)


def write_json(path: Path, value: dict) -> None:
    """Write a configuration, keys in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
