# SPDX-License-Identifier: Apache-2.0
"""What the commands share: parsers, progress, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

A = TypeVar("A")
LAYOUTS = ("fastvideo", "lightningdit", "mar", "webdataset")  # of other software


def bar(items: Iterable[A], total: int, name: str) -> Iterable[A]:
    """Show on a terminal how far an iteration is; nothing where it ends within a moment."""
    from tqdm import tqdm

    return tqdm(items, name, total, leave=False, unit="", delay=1.0, disable=None)


def guarded(name: str, work: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command; an error of the user's is a line, and exit code 2; an interrupt 130."""
    from diffnext.data.records import DamagedRecord

    try:
        return work(args)
    except DamagedRecord as error:
        print(f"{name}: {error}", file=sys.stderr)
        print(
            "  `diffnext cache verify` finds all damage; with --repair it mends it", file=sys.stderr
        )
        return 2
    except (OSError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def check_vae(identity: Mapping[str, Any] | None, vae: str, cache: str) -> None:
    """Refuse another autoencoder than the one that a cache states; it may state none.

    Raises:
        ValueError: with what differs, both values.
    """
    from diffnext.data.cache_identity import comparable, differences
    from diffnext.models.autoencoders.kinds import class_defaults
    from diffnext.models.autoencoders.loading import describe_vae

    stated = (identity or {}).get("vae")
    if stated is None:
        return
    both = comparable({"vae": stated}, {"vae": describe_vae(vae)}, class_defaults)
    if lines := differences(*both, "the cache", "--vae"):
        raise ValueError(f"--vae {vae} is not what made {cache}:\n" + "\n".join(lines))


def make_parser(name: str, doc: str) -> argparse.ArgumentParser:
    """A parser for `diffnext NAME`, whose help is the docstring of its module."""
    return argparse.ArgumentParser(
        prog=f"diffnext {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def refuse_url(parser: argparse.ArgumentParser, flag: str, path: str) -> None:
    """End with an error where an output is to lie behind a URL: s3://a would be a folder s3: here."""
    from diffnext.data.urls import is_url

    if is_url(path):
        parser.error(f"{flag} {path} is a URL; give a folder, and copy it there when it is done")
