# SPDX-License-Identifier: Apache-2.0
"""Find a medium again by the words that the journal of a cache has for it."""

from __future__ import annotations

import functools
import os
import re
import tarfile

from diffnext.data import urls
from diffnext.data.journal import Entry
from diffnext.data.location import Cell, File, Location, TarMember, Url
from diffnext.data.sources.webdataset import BLOCK


def locate(entry: Entry) -> Location:
    """Where the medium of an entry is: a file, a member of a tar, a cell of a table; local, or a URL.

    Raises:
        FileNotFoundError: nothing of that name is there.
    """
    path = entry.path
    if os.path.isfile(path):
        return File(path)
    found = _tar_member(path) or _cell(entry)
    if found is not None:
        return found
    if urls.is_url(path):
        return Url(path)  # whether it is there shows when it is read
    where = "" if os.path.isabs(path) else f" in {os.getcwd()}; run this where the build ran"
    raise FileNotFoundError(f"{path} is not there{where}")


def _tar_member(path: str) -> TarMember | None:
    tar, mark, name = path.partition(".tar/")
    stamp = _stamp(tar := f"{tar}.tar") if mark else None
    place = None if stamp is None else _members(tar, stamp).get(name)
    return None if place is None else TarMember(tar, name, *place)


@functools.lru_cache(maxsize=2)
def _members(tar: str, stamp: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """First byte and size of each member; a tar is gone through once for all that lie in it."""
    try:
        with urls.open_file(tar, BLOCK) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            return {member.name: (member.offset_data, member.size) for member in archive}
    except tarfile.TarError as error:
        raise ValueError(f"{tar} cannot be read as a tar: {error}") from error


def _cell(entry: Entry) -> Cell | None:
    match = re.fullmatch(r"(.+)/([^/\[\]]+)\[(\d+)\]", entry.path)
    if not match or _stamp(match[1]) is None:
        return None
    medium = "video" if entry.view.num_frames > 1 else "image"
    return Cell(match[1], match[2], int(match[3]), medium)


def _stamp(path: str) -> tuple[int, int] | None:
    """The stamp of a file, local or a URL; None if there is none."""
    if not urls.is_url(path) and not os.path.isfile(path):
        return None
    try:
        return urls.stamp(path)
    except FileNotFoundError:
        return None
