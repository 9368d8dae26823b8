# SPDX-License-Identifier: Apache-2.0
"""Work that several processes share, in a folder of its own: written down by one, removed when it is done.

head.json   what all must know; written last, so a work with it is complete
members/    signs of life; see leases.py
units/      who has which unit, and which are done
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from diffnext.data.leases import Leases, Members
from diffnext.utils.files import write_text

HEAD = "head.json"
GONE = "old-"  # how the folders of works begin that are being removed
SHARE = 4096  # a unit is one part in so many of what is left, if that is not too little

A = TypeVar("A")


class SharedWork:
    """Units of work.

    Args:
        folder: of this work.

    Raises:
        FileNotFoundError: the work is done, or was not begun.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(os.path.join(folder, HEAD), encoding="utf-8") as stream:
            self.head: dict[str, Any] = json.load(stream)
        self.members = Members(os.path.join(folder, "members"), self.head["lease_s"])

    @property
    def is_there(self) -> bool:
        """Whether the work is still to be done, or its results to be taken."""
        return os.path.exists(os.path.join(self.folder, HEAD))

    def leases(self, name: str) -> Leases:
        """Hands out units to the member of this name."""
        units = os.path.join(self.folder, "units")
        return Leases(units, len(self.head["units"]), name, self.members)

    def discard(self) -> None:
        """Remove the work, at one moment for all that see it."""
        remove(self.folder)


def write_head(folder: str, units: Sequence[Any], lease_s: float, **rest: Any) -> None:
    """Begin a work whose other files are there.

    Args:
        units: what is to be known of each.
        lease_s: silence in seconds after which others take over the units of a process.
        rest: what else all must know.
    """
    head: Mapping[str, Any] = {"units": units, "lease_s": lease_s, **rest}
    write_text(os.path.join(folder, HEAD), json.dumps(head))


def remove(folder: str) -> None:
    """Remove a work, begun or not, at one moment for all that see it."""
    gone = os.path.join(os.path.dirname(folder), GONE + secrets.token_hex(4))
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def folders(parent: str, beginning: str) -> list[str]:
    """The works in a folder, by how their names begin; those too that were not written to the end."""
    names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
    return [os.path.join(parent, name) for name in names if name.startswith(beginning)]


def in_units(items: Sequence[A], cost: Callable[[A], int], least: int) -> Iterator[list[A]]:
    """Divide items, in their order, into units for any number of processes.

    Each unit is a share of what is left at that point. So there are few, some ten thousand of them
    however much there is to do; and those taken last, which decide how far apart the processes end,
    are small. This is the guided self-scheduling of Polychronopoulos and Kuck (1987).

    Args:
        cost: of an item, in any measure.
        least: cost from which on a unit is worth being handed out alone.
    """
    left = sum(map(cost, items))
    unit: list[A] = []
    size = 0
    for item in items:
        more = cost(item)
        if unit and size + more > max(least, left // SHARE):
            yield unit
            left -= size
            unit, size = [], 0
        unit.append(item)
        size += more
    if unit:
        yield unit
