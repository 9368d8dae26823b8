# SPDX-License-Identifier: Apache-2.0
"""The end of a build: records, and their lines in the journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from diffnext.data.journal import Entry, Journal
from diffnext.data.progress import Stage
from diffnext.data.records import open_writer
from diffnext.data.records.layout import unfinished_ok
from diffnext.data.records.lock import FolderLock

Row = tuple[Entry, Mapping[str, Any]]  # a line of the journal and its record


class RecordSink:
    """Writes a batch before the next is encoded, so that a killed process loses one batch and no more.

    Lines must reach the disk before their records (see journal.py), which takes longer than all else
    that is written. So they go there while their batch is encoded, each time the same way:

        sink.announce(entries)
        ... the batch is encoded
        sink.put(rows)

    Records wait for no disk: the page cache of the system, which outlives the process, writes behind.

    Args:
        folder: where the records go; what an unfinished build left there is gone on with.
        fields: name -> type of the fields of a record.
        journal: of that folder.
        lock: on the folder, held by the caller.
        stage: counts what is written.
        on_written: told the lines of each batch that is in the folder.
    """

    def __init__(
        self,
        folder: str,
        fields: Mapping[str, Any],
        journal: Journal,
        *,
        lock: FolderLock,
        stage: Stage,
        on_written: Callable[[Sequence[Entry]], None] = lambda entries: None,
    ) -> None:
        with unfinished_ok():  # to go on with it is the purpose
            self._writer = open_writer(folder, fields, append=True, lock=lock)
        self._journal, self._stage, self._on_written = journal, stage, on_written
        self.written = 0
        self._thread = ThreadPoolExecutor(1, "cache-journal")
        self._lines: Future[int] | None = None

    def announce(self, entries: Sequence[Entry]) -> None:
        """Begin to bring the lines of a batch to the disk, before it is known which samples come."""
        self._lines = self._thread.submit(self._journal.append, entries)

    def put(self, rows: Sequence[Row]) -> None:
        """Write what came of the batch that was announced; it is in the folder when this returns.

        Raises:
            OSError, ValueError: it cannot be written.
        """
        with self._stage.at_work(len(rows)):
            announced, self._lines = self._lines.result(), None
            if len(rows) < announced:
                self._journal.take_back(announced)
                self._journal.append([entry for entry, _ in rows])
            for _, record in rows:
                self._writer.write(record)
                self.written += 1
        self._on_written([entry for entry, _ in rows])

    def __enter__(self) -> RecordSink:
        return self

    def __exit__(self, *error: Any) -> None:
        """Finish the folder, or leave it to be gone on with where there was an error."""
        self._thread.shutdown()
        self._writer.__exit__(*error)
