# SPDX-License-Identifier: Apache-2.0
"""What did not come into a cache, a line each, in a file beside the records."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple

from diffnext.data.sources import Failure
from diffnext.data.views import View
from diffnext.utils.files import replacing

LEDGER = "failures.jsonl"


def attempt(path: str, stamp: tuple[int, int], view: View | None = None) -> str:
    """Name what was tried and failed: a file in a certain state, or one view of it."""
    text = json.dumps([path, *stamp, None if view is None else view.state()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_ledger(folder: str) -> dict[str, Failure]:
    """What the last build could not do, by the attempt; lines without one are left out."""
    return {failure.attempt: failure for failure in load_failures(folder) if failure.attempt}


def load_failures(folder: str) -> list[Failure]:
    """All lines of the ledger in a folder; none where there is no ledger."""
    failures = []
    path = os.path.join(folder, LEDGER)
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                with contextlib.suppress(TypeError, ValueError):  # damaged: it is tried again
                    failures.append(_failure(json.loads(line)))
    return failures


def _failure(values: Mapping[str, str]) -> Failure:
    failure = Failure(**values)
    if not all(isinstance(value, str) for value in astuple(failure)):
        raise ValueError(f"{values} is no line of a ledger")
    return failure


def write_ledger(folder: str, failures: Iterable[Failure]) -> None:
    """Store what did not come into the cache, a line each; replaces the ledger of the last run."""
    os.makedirs(folder, exist_ok=True)
    with replacing(os.path.join(folder, LEDGER)) as aside, open(aside, "w") as stream:
        stream.writelines(json.dumps(asdict(failure)) + "\n" for failure in failures)
