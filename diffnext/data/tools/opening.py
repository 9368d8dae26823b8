# SPDX-License-Identifier: Apache-2.0
"""Open a cache as the tools need it: behind a URL too, and unfinished or damaged where it is local."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from diffnext.data import urls
from diffnext.data.cache_identity import upgrade_identity
from diffnext.data.journal import Entry, open_lines, parse_line
from diffnext.data.ledger import LEDGER
from diffnext.data.prune import is_pending
from diffnext.data.records import read_identity
from diffnext.data.records.files import Files, PatientFiles
from diffnext.data.records.folder_reader import FolderReader
from diffnext.data.records.layout import METADATA, SAMPLES, unfinished_ok
from diffnext.data.remote.reader import RemoteReader
from diffnext.data.views import View


class Cache:
    """A folder of records with all that lies beside it.

    Args:
        path: the folder, or its URL.
        patient: open a local one even if shards are missing or truncated; of an unfinished one, the
            last record may be torn, and is left out.

    Raises:
        FileNotFoundError: there is no such folder.
        RemoteError: the URL cannot be read.
        ValueError: it is no such folder, or records were being dropped when a process was killed.
    """

    def __init__(self, path: str | os.PathLike[str], *, patient: bool = False) -> None:
        self.path = os.fspath(path)
        self.reader = (
            _open_remote(self.path) if urls.is_url(self.path) else _open_local(self.path, patient)
        )
        self.finished = os.path.exists(self.file(METADATA))
        self.identity = read_identity(self.reader.folder)

    def __len__(self) -> int:
        return len(self.reader)

    def file(self, name: str) -> str:
        """The path of a file beside the records, or of its copy; it need not be there."""
        return os.path.join(self.reader.folder, name)

    @property
    def num_bytes(self) -> int:
        """What all files of the folder take."""
        if isinstance(self.reader, RemoteReader):
            return sum(file.size for file in self.reader.remote_files.values())
        return sum(entry.stat().st_size for entry in os.scandir(self.path) if entry.is_file())

    @property
    def journal(self) -> str:
        """The file that says what each record was made of, if there is one."""
        return self.file(SAMPLES)

    @property
    def has_journal(self) -> bool:
        return os.path.exists(self.journal)

    def lines(self) -> Iterator[str]:
        """The lines of the journal, one a record; those of records never finished are left out.

        Raises:
            ValueError: there are fewer than records.
        """
        count = 0
        with open_lines(self.journal) as stream:
            for line in itertools.islice(stream, len(self)):
                count += 1
                yield line
        if count < len(self):
            raise ValueError(f"{self.journal} has {count} lines for {len(self)} records")

    def entries(self) -> Iterator[Entry]:
        """The entries of the journal.

        Raises:
            ValueError: a line that is none.
        """
        views: dict[str, View] = {}
        view = upgrade_identity(self.identity or {})[1]
        for number, line in enumerate(self.lines()):
            try:
                yield parse_line(line, views, view)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{self.journal} line {number + 1} is damaged") from error

    def close(self) -> None:
        self.reader.close()


def _open_local(path: str, patient: bool) -> FolderReader:
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{path} is not a folder of records")
    if is_pending(path):
        raise ValueError(
            f"{path} was interrupted while records were dropped; `diffnext cache verify {path} "
            "--repair` or a build finishes that"
        )
    finished = os.path.exists(os.path.join(path, METADATA))
    with unfinished_ok():  # `Cache.finished` says it
        return FolderReader(path, files=PatientFiles if patient and finished else Files)


def _open_remote(url: str) -> RemoteReader:
    """What training opens, and what it does not need beside the records."""
    reader = RemoteReader(url)
    for name in (SAMPLES, LEDGER):
        reader.fetch(name)
    return reader


def evenly_spaced(count: int, most: int | None) -> list[int]:
    """At most so many of `count` numbers, evenly spread from the first to the last; None: all."""
    if most is None or most >= count:
        return list(range(count))
    if most < 2:
        return [0] if most else []
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]
