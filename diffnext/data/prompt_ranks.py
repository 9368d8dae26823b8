# SPDX-License-Identifier: Apache-2.0
"""Several processes that embed the texts of one build: units of texts, handed out by leases.

    diffnext.prompts/work-ID/   head.json, members/, units/   see shared_work.py
                                texts.jsonl   the texts, a unit a line

Each process writes a part of the store. A text that two embedded, as one was taken for dead, is there
twice, and either will do.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from diffnext.data.leases import LEASE_S, Leases
from diffnext.data.progress import Progress, silent
from diffnext.data.prompt_encoding import EncodeTexts, PatientTextEncoder, longest_first
from diffnext.data.prompt_store import STORE, WORK, PromptStore
from diffnext.data.shared_work import HEAD, SharedWork, folders, in_units, remove, write_head
from diffnext.utils.files import write_bytes

TEXTS = "texts.jsonl"
UNIT_TEXTS = 512  # of the smallest units
POLL_S = 0.2

Load = Callable[[], EncodeTexts]  # makes the text encoder ready


class PromptWork(SharedWork):
    """Texts that are to be embedded, as files.

    Args:
        folder: diffnext.prompts/work-ID in the cache.

    Raises:
        FileNotFoundError: the work is done, or was not begun.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.encoder: dict[str, Any] = self.head["encoder"]
        self.offsets: list[int] = self.head["units"]

    def check(self) -> None:
        """Notice when others have done the work, or one that leads now has begun anew.

        Raises:
            FileNotFoundError: so it is.
        """
        os.stat(os.path.join(self.folder, HEAD))

    def texts(self, unit: int) -> list[str]:
        """The texts of a unit."""
        with open(os.path.join(self.folder, TEXTS), "rb") as stream:
            stream.seek(self.offsets[unit])
            return json.loads(stream.readline())


def create(
    store: PromptStore,
    texts: Iterable[str],
    encoder: Mapping[str, Any],
    *,
    lease_s: float = LEASE_S,
    unit_texts: int = UNIT_TEXTS,
) -> PromptWork:
    """Write down the texts for all who take part; a work that is there is given up."""
    for folder in folders(store.folder, WORK):
        remove(folder)
    folder = os.path.join(store.folder, f"{WORK}{secrets.token_hex(6)}")
    os.makedirs(folder)
    offsets, lines = [0], []
    for unit in in_units(longest_first(texts), lambda text: 1, unit_texts):
        lines.append(json.dumps(unit).encode() + b"\n")
        offsets.append(offsets[-1] + len(lines[-1]))
    write_bytes(os.path.join(folder, TEXTS), *lines)
    write_head(folder, offsets[:-1], lease_s, encoder=dict(encoder))
    return PromptWork(folder)


def find(cache: str) -> PromptWork | None:
    """The work that is being done at a cache, or was left undone by processes that died."""
    for folder in folders(os.path.join(cache, STORE), WORK):
        with contextlib.suppress(FileNotFoundError):
            return PromptWork(folder)
    return None


def take_part(
    work: PromptWork,
    store: PromptStore,
    load: Load,
    *,
    batch_size: int = 32,
    progress: Progress = silent,
) -> int:
    """Embed units until all are done, by whomever. Returns how many units this process did.

    The one that leads removes the work then, and loads the store again.

    Raises:
        OSError: the disk failed; or this process was silent so long that the work was done without
            it, and is gone.
    """
    with work.members.enter() as member, contextlib.ExitStack() as stack:
        leases = work.leases(member.name)
        desk = _Desk(work, leases, store, load, batch_size, stack)
        for _ in progress(desk.units(), len(work.offsets), "prompts"):
            pass
    return desk.done


def help_out(cache: str, encoder: Mapping[str, Any], load: Load, *, batch_size: int = 32) -> int:
    """Take part in the embedding at a cache, if there is any. Returns how many units were done.

    Raises:
        ValueError: it is done with another text encoder.
    """
    work = find(cache)
    if work is None:
        return 0
    if work.encoder != encoder:
        raise ValueError(
            "the build at work embeds its prompts with another text encoder; give the same "
            "--text-model and --text-dtype"
        )
    try:
        return take_part(work, PromptStore(cache), load, batch_size=batch_size)
    except OSError:
        if work.is_there:
            raise
        return 0  # others have done its work, or begun anew


class _Desk:
    """What one process does: the encoder is loaded, and a part begun, when it has a unit."""

    def __init__(
        self,
        work: PromptWork,
        leases: Leases,
        store: PromptStore,
        load: Load,
        batch_size: int,
        stack: contextlib.ExitStack,
    ) -> None:
        self.done = 0
        self._work, self._leases, self._store = work, leases, store
        self._load, self._batch_size, self._stack = load, batch_size, stack

    def units(self) -> Iterator[int]:
        """Work; yield each unit when it is done, by whomever."""
        encode = part = None
        told: set[int] = set()
        while len(told) < len(self._work.offsets):
            claim = self._leases.claim()
            if claim is not None and encode is None:
                encode = PatientTextEncoder(self._load(), self._batch_size)
                self._work.check()
                part = self._stack.enter_context(self._store.begin())
            if claim is None:
                time.sleep(POLL_S)
            else:
                for batch in encode.batches(self._texts(*claim)):
                    part.write(batch)
                    self._work.check()
                part.sync()
                self._leases.finish(claim[0], b"")
                self.done += 1
            news = self._leases.done() - told
            told |= news
            yield from news

    def _texts(self, unit: int, was_had: bool) -> list[str]:
        """The texts of a unit, but those that one who died had embedded."""
        texts = self._work.texts(unit)
        if not was_had:
            return texts
        self._store.load()
        return [text for text in texts if text not in self._store]
