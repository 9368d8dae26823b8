# SPDX-License-Identifier: Apache-2.0
"""Find a medium again by the words that the journal of a cache has for it."""

from __future__ import annotations

import os
import re
import tarfile

from diffnext.data import urls
from diffnext.data.journal import Entry
from diffnext.data.location import Cell, File, Location, TarMember, Url


def locate(entry: Entry) -> Location:
    """Where the medium of an entry is: a file, a URL, a member of a local tar, a cell of a table.

    Raises:
        FileNotFoundError: nothing of that name is there.
    """
    path = entry.path
    if urls.is_url(path):
        return Url(path)
    if os.path.isfile(path):
        return File(path)
    found = _tar_member(path) or _cell(entry)
    if found is None:
        where = "" if os.path.isabs(path) else f" in {os.getcwd()}; run this where the build ran"
        raise FileNotFoundError(f"{path} is not there{where}")
    return found


def _tar_member(path: str) -> TarMember | None:
    tar, mark, name = path.partition(".tar/")
    if not mark or not os.path.isfile(tar + ".tar"):
        return None
    with tarfile.open(tar + ".tar", "r:") as archive:
        try:
            member = archive.getmember(name)
        except KeyError:
            return None
        return TarMember(tar + ".tar", name, member.offset_data, member.size)


def _cell(entry: Entry) -> Cell | None:
    match = re.fullmatch(r"(.+)/([^/\[\]]+)\[(\d+)\]", entry.path)
    if not match or not os.path.isfile(match[1]):
        return None
    medium = "video" if entry.view.num_frames > 1 else "image"
    return Cell(match[1], match[2], int(match[3]), medium)
