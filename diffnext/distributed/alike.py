# SPDX-License-Identifier: Apache-2.0
"""What must be the same on all processes, and is not where a node has other files or options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from diffnext.distributed import env as processes

SHOWN = 60  # characters of a value in a message


def check_alike(mine: Mapping[str, str]) -> None:
    """Compare what each process brings. Collective; a digest of 64 letters each, unless they differ.

    Raises:
        ValueError: what differs, with its values and the ranks of each; on all processes.
    """
    text = json.dumps(dict(mine), sort_keys=True)
    digests = processes.gather(hashlib.sha256(text.encode()).hexdigest())
    if len(set(digests)) == 1:
        return
    found = processes.gather(dict(mine))
    names = sorted(set().union(*found))
    lines = [f"  {name}: {_in_words(values)}" for name in names if (values := _ranks(found, name))]
    raise ValueError(
        "the processes have not been started with the same options and files:\n" + "\n".join(lines)
    )


def _ranks(found: Sequence[Mapping[str, str]], name: str) -> dict[str, list[int]]:
    """The ranks that have each value; {} if all have the same."""
    ranks: dict[str, list[int]] = {}
    for rank, facts in enumerate(found):
        ranks.setdefault(facts.get(name, "nothing"), []).append(rank)
    return ranks if len(ranks) > 1 else {}


def _in_words(values: Mapping[str, Sequence[int]]) -> str:
    letters = enumerate(zip(*values, strict=False))
    alike = next((place for place, each in letters if len(set(each)) > 1), min(map(len, values)))
    return "; ".join(
        f"{_cut(value, alike)} on rank {processes.listed(ranks)}" for value, ranks in values.items()
    )


def _cut(value: str, alike: int) -> str:
    """A value in a line; of a long one what stands around the place where it begins to differ."""
    start = max(alike - SHOWN // 3, 0) if len(value) > SHOWN else 0
    shown = " ".join(value[start : start + SHOWN].split())
    return ("..." if start else "") + shown + ("..." if start + SHOWN < len(value) else "")
