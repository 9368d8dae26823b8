# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: written aside, made durable, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of one that takes no more


def sync_file(path: str | Path) -> None:
    """Wait until the content of a file, or the entries of a folder, have reached the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: str | Path) -> None:
    """Make every file and folder below `folder`, and itself, durable."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(os.path.join(root, name))
        sync_file(root)


@contextlib.contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Give the name of a draft to write; at the end of the block it takes the place of `path`.

    A reader sees the old content or the new, never a part, even after the power was cut. Where the
    block or the disk fails, the draft is removed and `path` stays as it is.

    Args:
        durable: False does not wait for the disk, for what is worth nothing after a power cut.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield aside
        if durable:
            sync_file(aside)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    if durable:
        sync_file(path.parent)


def remove_drafts(folder: str | Path) -> None:
    """Remove what processes that were killed in a `replacing` left in a folder.

    Nobody else may be replacing files there that cannot be made again.
    """
    for name in os.listdir(folder):
        if re.fullmatch(r"\..+\.\d+\.\d+\.tmp", name):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def move(source: str | Path, target: str | Path, *, missing_ok: bool = False) -> None:
    """Put a finished file in the place of another.

    Args:
        missing_ok: without a source nothing happens: it was done already.
    """
    try:
        os.replace(source, target)
    except FileNotFoundError:
        if not missing_ok:
            raise


def write_bytes(path: str | Path, *pieces: bytes | bytearray | memoryview) -> None:
    """Replace a file by these pieces, one after another, in one step."""
    with replacing(path) as aside, open(aside, "wb") as file:
        file.writelines(pieces)


def write_text(path: str | Path, text: str) -> None:
    """Replace a file by text in utf-8, in one step."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def promote(
    aside: str | Path, final: str | Path, *, replace: bool = False, durable: bool = False
) -> None:
    """Make a finished folder durable and give it its final name.

    Args:
        replace: a folder at `final` is put out of the way first and removed last, so that what is
            found at `final` is never a mixture of the two.
        durable: its content has reached the disk already.

    Raises:
        FileExistsError: there is something at `final`, and it is not to be replaced.
    """
    aside, final = Path(aside), Path(final)
    if final.exists() and not replace:
        raise FileExistsError(f"{final} exists and is not overwritten")
    if not durable:
        sync_tree(aside)
    final.parent.mkdir(parents=True, exist_ok=True)
    old = final.with_name(f".{final.name}.old")
    if old.exists():  # left by a crash right here
        shutil.rmtree(old)
    if final.exists():
        os.rename(final, old)
    os.rename(aside, final)
    sync_file(final.parent)
    if old.exists():
        shutil.rmtree(old)


def sizes(folder: str | Path) -> dict[str, int]:
    """Bytes of every file below `folder`, by relative path."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
