# SPDX-License-Identifier: Apache-2.0
"""Embed the prompts of a cache of texts into a folder beside it; the media are not encoded again.

    diffnext cache prompts photos_cache --text-model /path/to/model --output photos_prompts

Training joins it to the cache, and then needs no text encoder: TRAIN.DATASET photos_cache
TRAIN.DATASET2 photos_prompts. The same command run again goes on where it was interrupted, and embeds
what was added to the cache since. Exit codes: 0 done, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import functools
import gc

from diffnext.cli.common import bar, guarded, make_parser
from diffnext.cli.devices import DTYPES
from diffnext.data.view_options import positive


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("cache prompts", __doc__)
    parser.add_argument("cache", help="folder of records with captions as texts")
    parser.add_argument("--output", required=True, help="folder for the embeddings")
    add_encoder(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    args = parser.parse_args(argv)
    if not args.text_model:
        parser.error("--text-model is wanted: the folder of a model")
    return guarded("diffnext cache prompts", run, args)


def add_encoder(parser) -> None:
    """Options that name the text encoder."""
    add = parser.add_argument
    add("--text-model", metavar="FOLDER", help="model that holds text_encoder/ and tokenizer/")
    add(
        "--text-dtype",
        default="auto",
        choices=("auto", *DTYPES),
        help="precision of the text encoder; auto: bf16 on cuda, else fp32",
    )
    add(
        "--text-batch-size",
        type=positive,
        default=32,
        metavar="N",
        help="prompts that are embedded together; fewer where memory turns out too small; default 32",
    )


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Options of a build that embeds its prompts."""
    group = parser.add_argument_group("prompt embeddings")
    group.add_argument(
        "--encode-prompts",
        action="store_true",
        help="store what the text encoder gives for each caption in place of the text, so that "
        "training needs none; it is gone from memory before the autoencoder is loaded",
    )
    add_encoder(group)
    group.add_argument(
        "--together",
        action="store_true",
        help="keep text encoder and autoencoder in memory together, and no embeddings on the disk "
        "until their media are encoded; for one process",
    )


def check_prompts(args: argparse.Namespace, *, many: bool) -> None:
    """Refuse options that can do nothing.

    Args:
        many: whether several processes build.

    Raises:
        ValueError: with what goes together.
    """
    if not args.encode_prompts and (args.text_model or args.together):
        raise ValueError("--text-model and --together are for --encode-prompts; add it")
    if args.together and many:
        raise ValueError(
            "--together is for one process; without it, they share the prompts and then the media"
        )
    args.text_model = args.text_model or args.vae


def run(args: argparse.Namespace) -> int:
    """Embed the prompts of a cache."""
    from diffnext.data.prompt_folder import embed_cache, read_texts

    texts = read_texts(args.cache, bar)
    written = embed_cache(
        texts,
        args.output,
        describe_encoder(args),
        lambda: load_encoder(args),
        batch_size=args.text_batch_size,
        progress=bar,
    )
    print(
        f"{args.output}: {written} written, {len(texts.rows)} records in all, as {args.cache} has"
    )
    print(f"to train on both: TRAIN.DATASET {args.cache} TRAIN.DATASET2 {args.output}")
    return 0


def embed_plan(args: argparse.Namespace, plan, *, many: bool):
    """Give a plan its embeddings. Returns the store that holds them; None if there is none.

    The text encoder is gone from memory then, unless --together.

    Args:
        many: whether other processes may take part.
    """
    from diffnext.data.prompt_cache import words_of
    from diffnext.data.prompt_encoding import LivePrompts, copy_held, held_words
    from diffnext.data.prompt_store import PromptStore

    if args.together:
        PromptStore(plan.output).discard()  # of a build without it that did not end
        if plan.tasks:
            plan.prompts = LivePrompts(load_encoder(args), args.text_batch_size)
        return None
    store = PromptStore(plan.output, plan.identity["text_encoder"])
    wanted = {text for task in plan.tasks for text in words_of(task.source.fields())}
    if wanted and plan.journal.entries:
        held = held_words(plan.journal.entries, plan.sources)
        copy_held(store, plan.output, held, wanted)
    missing = {text for text in wanted if text not in store}
    known = len(wanted) - len(missing)
    print(f"prompts: {len(wanted)} different, {known} embedded before, {len(missing)} to embed")
    if missing:
        embed_texts(args, plan, store, missing, many=many)
        free_memory()
    plan.prompts = store
    return store


def embed_texts(args: argparse.Namespace, plan, store, texts, *, many: bool) -> None:
    """Embed texts, alone or with all who take part."""
    from diffnext.data import prompt_ranks
    from diffnext.data.prompt_encoding import encode_texts

    how = {"batch_size": args.text_batch_size, "progress": bar}
    if not many:
        encode_texts(store, texts, load_encoder(args), **how)
        return
    work = prompt_ranks.create(store, texts, plan.identity["text_encoder"])
    prompt_ranks.take_part(work, store, lambda: load_encoder(args), **how)
    work.discard()
    store.load()


def help_embed(args: argparse.Namespace, encoder: dict | None) -> None:
    """Take part in the embedding of the prompts of the build that is at work, if it is at that.

    Args:
        encoder: what this process would embed with; None: its build embeds nothing.
    """
    from diffnext.data import prompt_ranks

    batch_size = args.text_batch_size
    load = functools.partial(load_encoder, args)
    if encoder is not None and prompt_ranks.help_out(
        args.output, encoder, load, batch_size=batch_size
    ):
        free_memory()


def describe_encoder(args: argparse.Namespace) -> dict:
    """What the identity of a cache states of the text encoder."""
    from diffnext.pipelines.nova.prompt_encoder import describe_prompt_encoder

    return describe_prompt_encoder(args.text_model, pick(args)[1])


def load_encoder(args: argparse.Namespace):
    """The text encoder, ready to encode."""
    from diffnext.pipelines.nova.prompt_encoder import PromptEncoder

    device, dtype = pick(args)
    return PromptEncoder(args.text_model, device=device, dtype=dtype)


def pick(args: argparse.Namespace):
    """Device and precision of the text encoder."""
    from diffnext.cli.devices import pick_device

    device, dtype = pick_device(args.device, args.text_dtype)
    if args.text_dtype == "auto" and device.startswith("cuda"):
        import torch

        dtype = torch.bfloat16  # states of large text encoders go beyond float16 on their way
    return device, dtype


def free_memory() -> None:
    """Let go of what nothing refers to any more, on a GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
