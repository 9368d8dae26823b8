# SPDX-License-Identifier: Apache-2.0
"""The sha256 of files, remembered as long as they stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from diffnext.utils.files import remove_drafts, write_text

MEMO_BYTES = 1 << 24  # files that are smaller together are hashed faster than looked up
BLOCK = 1 << 20


def user_cache() -> Path:
    """The folder for what can be made again: $XDG_CACHE_HOME/diffnext, or ~/.cache/diffnext."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "diffnext"


def sha256_of(files: Sequence[str | os.PathLike[str]]) -> str:
    """The sha256 over files one after another, in hexadecimal digits.

    That of large files is kept in `user_cache()` under their paths, sizes, and times of change: both
    the one that a program may set and the one (ctime) that it may not.
    """
    paths = [Path(file).resolve() for file in files]
    stats = [path.stat() for path in paths]
    if sum(stat.st_size for stat in stats) < MEMO_BYTES:
        return _digest(paths)
    key = [
        [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        for path, stat in zip(paths, stats, strict=True)
    ]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    memo = user_cache() / "sha256" / name
    with contextlib.suppress(OSError):
        return memo.read_text()
    digest = _digest(paths)
    with contextlib.suppress(OSError):  # a home that cannot be written to is no reason to stop
        memo.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(memo.parent)
        write_text(memo, digest)
    return digest


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()
