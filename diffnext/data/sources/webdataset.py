# SPDX-License-Identifier: Apache-2.0
"""Tars of samples: neighbouring members with one name and several endings are one sample.

A tar is gone through once, from header to header; the media stay in it and are read from where they lie.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from typing import Any

from diffnext.data import urls
from diffnext.data.fields import parse_json
from diffnext.data.location import TarMember, kind_of
from diffnext.data.sources.columns import Columns
from diffnext.data.sources.listing import Listing

TEXTS = {"txt": "caption", "text": "caption", "caption": "caption", "cls": "label"}
BLOCK = 1 << 20  # bytes of a remote tar that are fetched at a time: large members are passed over
BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def expand(pattern: str) -> list[str]:
    """The paths that a pattern such as shards-{0000..0009}.tar or {a,b}.tar stands for."""
    match = BRACES.search(pattern)
    if not match:
        return [pattern]
    first, last, words = match.groups()
    if words is None:
        numbers = range(int(first), int(last) + 1)
        parts = [str(number).zfill(len(first)) for number in numbers]
    else:
        parts = words.split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [path for part in parts for path in expand(f"{head}{part}{tail}")]


def list_tar(listing: Listing, path: str, columns: Columns) -> None:
    """List the media in a tar. A damaged one gives those before the damage, and a failure."""
    count = len(listing.sources)
    try:
        with urls.open_file(path, BLOCK) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(0)
            for members in _groups(file, end):
                _add_sample(listing, path, file, members, columns)
    except (tarfile.TarError, OSError, ValueError) as error:
        listing.fail(path, f"cannot be read as a tar from here on: {error}")
    else:
        if len(listing.sources) == count:
            listing.fail(path, "no picture or video in this tar")


def _groups(file: Any, end: int) -> Iterator[dict[str, tarfile.TarInfo]]:
    """Ending -> member for each sample that is whole.

    Raises:
        tarfile.TarError, ValueError: damage; the sample it lies in is not among those given before.
    """
    group: dict[str, tarfile.TarInfo] = {}
    last = None
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            tar.members = []  # or it would keep all of them
            is_wanted = member.isfile() or member.islnk() or member.issym()
            if not is_wanted or os.path.basename(member.name).startswith("."):
                continue
            if not away(member) and member.offset_data + member.size > end:
                raise ValueError(f"{member.name} goes beyond the end of the file")
            key, ending = _split(member.name)
            if group and (key != last or ending in group):
                yield group
                group = {}
            last = key
            group[ending] = member
        file.seek(tar.offset)  # tarfile takes damage for the end
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"no header of a member at byte {tar.offset}")
        if group:
            yield group


def away(member: tarfile.TarInfo) -> str:
    """Why the bytes of a member do not lie behind its header; "" if they do."""
    if member.islnk() or member.issym():
        remedy = "write the tar with --hard-dereference --dereference"
        return f"{member.name} is a link to {member.linkname}; {remedy}"
    if member.issparse():
        return f"{member.name} is stored with holes; write the tar without --sparse"
    return ""


def _split(name: str) -> tuple[str, str]:
    """Name without ending, and the ending: all from the first dot of the file's name on."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _add_sample(
    listing: Listing,
    path: str,
    file: Any,
    members: dict[str, tarfile.TarInfo],
    columns: Columns,
) -> None:
    """Add each medium of a group with the fields that the group's other members hold."""
    found = [
        TarMember(path, member.name, member.offset_data, member.size)
        for member in members.values()
        if kind_of(member.name) is not None
    ]
    where = "in the tar"
    try:
        if reason := next(filter(None, map(away, members.values())), ""):
            raise ValueError(reason)
        values = _values(file, members, columns)
    except ValueError as error:
        for location in found:
            listing.fail(str(location), f"{where}: {error}")
        return
    for location in found:
        listing.add(location, values, where=where)


def _values(file: Any, members: dict[str, tarfile.TarInfo], columns: Columns) -> dict[str, Any]:
    """The fields of a group; what .json holds goes first where it is not empty."""
    values: dict[str, Any] = {}
    for ending, field in TEXTS.items():
        if ending in members:
            values.setdefault(field, _read_text(file, members[ending]))
    if "json" in members:
        held = parse_json(_read_text(file, members["json"]))
        if not isinstance(held, dict):
            raise ValueError(f"{type(held).__name__} in .json, an object is wanted")
        values.update(columns.fields(held))
    return values


def _read_text(file: Any, member: tarfile.TarInfo) -> str:
    file.seek(member.offset_data)
    return file.read(member.size).decode("utf-8-sig").strip()
