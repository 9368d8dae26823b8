# SPDX-License-Identifier: Apache-2.0
"""The end of a build: records and their lines in the journal, written in a thread of their own."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffnext.data.journal import Entry, Journal
from diffnext.data.progress import Stage
from diffnext.data.records import open_writer
from diffnext.data.records.lock import FolderLock

Row = tuple[Entry, Mapping[str, Any]]  # a line of the journal and its record


class RecordSink:
    """Writes one batch while the next is encoded, and no more than one.

    A process that is killed has encoded that batch for nothing; so a second one is not taken before
    the first is in the folder.

    Args:
        folder: where the records go; what an unfinished build left there is gone on with.
        fields: name -> type of the fields of a record.
        journal: of that folder.
        lock: on the folder, held by the caller.
        stage: counts what is written.
        on_written: told the lines of each batch that is in the folder, in the thread of the writer.
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
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of an unfinished folder: to go on with it is the purpose
            self._writer = open_writer(folder, fields, append=True, lock=lock)
        self._journal, self._stage, self._on_written = journal, stage, on_written
        self.written = 0
        self._error: BaseException | None = None
        self._batches: queue.Queue[Sequence[Row] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="cache-writer")
        self._thread.start()

    def put(self, rows: Sequence[Row]) -> None:
        """Hand over a batch, once the one before is written.

        Raises:
            OSError, ValueError: what went wrong with an earlier batch.
        """
        self._batches.join()
        if self._error is not None:
            raise self._error
        self._batches.put(rows)

    def __enter__(self) -> RecordSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Finish the folder, or leave it to be gone on with where there was an error."""
        self._batches.put(None)
        self._thread.join()
        failed = kind or (type(self._error) if self._error else None)
        self._writer.__exit__(failed, *rest)
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (rows := self._batches.get()) is not None:
            try:
                if self._error is None:
                    self._write(rows)
            except BaseException as error:
                self._error = error
            finally:
                self._batches.task_done()

    def _write(self, rows: Sequence[Row]) -> None:
        with self._stage.at_work(len(rows)):
            self._journal.append([entry for entry, _ in rows])  # before the records: see journal.py
            for _, record in rows:
                self._writer.write(record)
                self.written += 1
            self._on_written([entry for entry, _ in rows])
