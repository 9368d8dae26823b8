# SPDX-License-Identifier: Apache-2.0
"""The folder of a cache as a build finds it: its journal, if nothing that belongs to it is lost."""

from __future__ import annotations

import os

from diffnext.data.cache_identity import upgrade_identity
from diffnext.data.journal import Journal
from diffnext.data.progress import Progress, silent
from diffnext.data.prune import is_pending
from diffnext.data.records import holds_records, open_reader, read_identity
from diffnext.data.records.layout import JOURNAL as WRITING
from diffnext.data.records.layout import METADATA, SAMPLES, index_names, unfinished_ok
from diffnext.data.worklist import is_joining


def open_journal(output: str, progress: Progress = silent) -> tuple[Journal, bool]:
    """The journal of a cache folder, and whether its last build was finished.

    Args:
        progress: wraps the lines of the journal, to show how far their reading is.

    Raises:
        ValueError: the journal or a shard is lost, or records were being dropped when a process was
            killed.
    """
    if is_pending(output) or is_joining(output):
        what = "dropped" if is_pending(output) else "joined"
        raise ValueError(
            f"{output} was interrupted while records were {what}; a build without --dry-run finishes "
            "that"
        )
    is_writing = os.path.exists(os.path.join(output, WRITING))
    finished = os.path.exists(os.path.join(output, METADATA)) and not is_writing
    if not finished:
        check_indexes(output)
    if not holds_records(output):
        return Journal(output, 0), True
    with unfinished_ok():  # to go on with it is the purpose
        reader = open_reader(output)
    view = upgrade_identity(read_identity(output) or {})[1]
    reader.close()
    journal = Journal(output, len(reader), view, progress)
    if not finished and not is_writing:
        check_lines(output, len(reader))
    return journal, finished


def check_indexes(output: str) -> None:
    """Refuse shards that are not counted: the records behind them would get the lines of others.

    A killed writer leaves none: the text index is there before the first byte of the shard.
    """
    names = set(os.listdir(output)) if os.path.isdir(output) else set()
    for name in sorted(names):
        stem, ending = os.path.splitext(name)
        lost = ending == ".data" and f"{stem}.index" not in names
        if lost and os.path.getsize(os.path.join(output, name)):
            raise ValueError(
                f"{output} holds {name} and not {stem}.index, without which nobody knows its records; "
                "put it back from a copy, or choose another --output"
            )


def check_lines(output: str, records: int) -> None:
    """Refuse a folder without METADATA that has lost a shard from between others.

    A build in progress may have more lines than records, and says that it is one; dropped records
    leave gaps between the numbers of the shards.
    """
    with open(os.path.join(output, SAMPLES), "rb") as stream:
        lines = sum(1 for _ in stream)
    stems = [name.removesuffix(".index") for name in index_names(output)]
    has_gap = stems != [str(number).zfill(len(stems[-1])) for number in range(len(stems))]
    if lines > records and has_gap:
        raise ValueError(
            f"{output} holds {records} records, {SAMPLES} in it knows {lines}, and no build is in "
            "progress: a shard was lost; put it back from a copy, or choose another --output"
        )
