# SPDX-License-Identifier: Apache-2.0
"""Which views each medium gave under the rules of the last build, so that it is not probed again.

The file lies beside the records and may be removed: it saves time, nothing else.
"""

from __future__ import annotations

import json
import os
import threading
from array import array
from dataclasses import asdict
from typing import Any

from diffnext.data.lookup import Lookup, stamp_digest
from diffnext.data.view_rules import Chosen, ViewRules
from diffnext.data.views import View

CHOICES = "diffnext.views.jsonl"
VERSION = 2  # of the rules as they are carried out; changes when they give other views
WRITE_EVERY = 256  # lines that a killed build may have to find out again


class Choices:
    """What was chosen for each medium, by its path and stamp. For use by several threads.

    Args:
        folder: the cache.
        rules: what is chosen by; what was chosen by others is forgotten.
        store: whether new choices are written to the folder, which then must be there.
    """

    def __init__(self, folder: str, rules: ViewRules, *, store: bool) -> None:
        self._path = os.path.join(folder, CHOICES)
        self._head = json.dumps({"version": VERSION, "rules": asdict(rules)})
        self._files = bytearray()  # the digest of each medium
        self._numbers = array("I")  # of each, which of those below
        self._chosen: list[Chosen] = []  # each once
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._store = store
        is_ours = self._load()
        self._by_file = Lookup(self._files)
        if store and not is_ours:
            with open(self._path, "w", encoding="utf-8") as stream:
                stream.write(self._head + "\n")

    def get(self, path: str, stamp: tuple[int, int]) -> Chosen | None:
        """What was chosen for a medium that is as it was then."""
        places = self._by_file.find(stamp_digest(path, stamp))
        return self._chosen[self._numbers[self._by_file.item(places[-1])]] if places else None

    def add(self, path: str, stamp: tuple[int, int], chosen: Chosen) -> None:
        """Remember what was chosen for a medium."""
        if not self._store:
            return
        with self._lock:
            self._lines.append(json.dumps([path, *stamp, _state(chosen)]) + "\n")
            if len(self._lines) >= WRITE_EVERY:
                self._write()

    def close(self) -> None:
        """Write what was not written yet."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self._lines:
            with open(self._path, "a", encoding="utf-8") as stream:
                stream.writelines(self._lines)
            self._lines.clear()

    def _load(self) -> bool:
        """Read the choices; False if there are none that were made by these rules."""
        try:
            stream = open(self._path, encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return False
        with stream:
            if stream.readline().rstrip("\n") != self._head:
                return False
            numbers: dict[str, int] = {}
            views: dict[View, View] = {}  # one object for all that are equal
            for line in stream:
                try:
                    path, size, mtime_ns, state = json.loads(line)
                    name = repr(state)
                    if name not in numbers:
                        self._chosen.append(_chosen(state, views))
                        numbers[name] = len(self._chosen) - 1
                except (AttributeError, KeyError, TypeError, ValueError):  # torn, or damaged
                    continue
                self._files += stamp_digest(path, (size, mtime_ns))
                self._numbers.append(numbers[name])
        return True


def _state(chosen: Chosen) -> dict[str, Any]:
    return {**asdict(chosen), "views": [view.state() for view in chosen.views]}


def _chosen(state: dict[str, Any], views: dict[View, View]) -> Chosen:
    made = [View.from_state(view) for view in state["views"]]
    same = tuple(views.setdefault(view, view) for view in made)
    reasons = tuple(state["dropped"]), tuple(state["failed"])
    return Chosen(state["height"], state["width"], same, *reasons, state.get("unused", 0))
