# SPDX-License-Identifier: Apache-2.0
"""A folder that appears under its name when all of it is written, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from diffnext.data.records.lock import FolderLock
from diffnext.data.urls import is_url
from diffnext.utils.files import promote


@contextlib.contextmanager
def draft(output: str | os.PathLike[str]) -> Iterator[str]:
    """Give a new folder beside `output`, which gets that name at the end of the block.

    Where the block fails, the folder is removed; what a killed process left of one, the next removes.

    Raises:
        ValueError: there is something at `output` already, another process writes to it, or it is
            a URL.
    """
    if is_url(os.fspath(output)):
        raise ValueError(f"{output} is a URL; give a folder, and copy it there when it is done")
    final = Path(os.path.abspath(output))
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise ValueError(f"{output} exists already; choose another name, or remove it")
    aside = final.with_name(f".{final.name}.partial")
    with FolderLock(aside):
        clear(aside)
        os.makedirs(aside / "content")
        try:
            yield str(aside / "content")
            if final.exists():
                final.rmdir()
            promote(aside / "content", final)
        finally:
            shutil.rmtree(aside / "content", ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def clear(aside: Path) -> None:
    """Remove what a killed process left."""
    shutil.rmtree(aside / "content", ignore_errors=True)
