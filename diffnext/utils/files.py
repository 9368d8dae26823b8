# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: written aside, made durable, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def sync_file(path: str | Path) -> None:
    """Wait until the content of a file, or the entries of a folder, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
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


def write_text(path: str | Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old content or the new, never a part."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(text)
    sync_file(aside)
    os.replace(aside, path)
    sync_file(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def promote(aside: str | Path, final: str | Path) -> None:
    """Make a finished folder durable and give it its final name.

    Raises:
        FileExistsError: there is something at `final`; nothing is overwritten.
    """
    aside, final = Path(aside), Path(final)
    if final.exists():
        raise FileExistsError(f"{final} exists and is not overwritten")
    sync_tree(aside)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.rename(aside, final)
    sync_file(final.parent)


def sizes(folder: str | Path) -> dict[str, int]:
    """Bytes of every file below `folder`, by relative path."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
