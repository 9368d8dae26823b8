# SPDX-License-Identifier: Apache-2.0
"""The command line: `diffnext train`, `diffnext generate`, `diffnext cache build`, ...

A command is a module with `main(argv) -> exit code`. It is imported when it is called, so that help does
not wait for torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": ("train", "train a model"),
    "generate": ("generate", "make pictures and videos with a model"),
    "cache build": ("build_cache", "encode pictures and videos into a cache"),
    "cache prompts": ("cache_prompts", "embed the prompts of a cache into a folder beside it"),
    "cache info": ("cache_info", "say what a cache holds and what made it"),
    "cache verify": ("cache_verify", "find damaged records, and mend them"),
    "cache show": ("cache_show", "decode records and show them beside their sources"),
    "cache diff": ("cache_diff", "compare two caches record by record"),
    "cache filter": ("cache_filter", "make a cache of some of the records of another"),
    "cache merge": ("cache_merge", "make one cache of several"),
    "cache split": ("cache_split", "make parts of a cache by chance, to hold one out"),
    "cache import": ("cache_import", "make a cache of latents that other software stored"),
    "cache export": ("cache_export", "write a cache as other software stores latents"),
}
ALIASES = {"sample": "generate"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code, 2 if there is no such command."""
    words = list(sys.argv[1:] if argv is None else argv)
    words[:1] = [ALIASES.get(word, word) for word in words[:1]]
    for length in (1, 2):
        name = " ".join(words[:length])
        if name in COMMANDS:
            module = importlib.import_module(f"diffnext.cli.{COMMANDS[name][0]}")
            return module.main(words[length:])
    asked = bool(words) and words[-1] in ("-h", "--help")
    print(usage(words), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def usage(words: Sequence[str]) -> str:
    """All commands; of a group alone, if one is named."""
    group = f"{words[0]} " if words else ""
    names = [name for name in COMMANDS if name.startswith(group)] or list(COMMANDS)
    width = max(map(len, names)) + 2
    lines = [f"  {name:<{width}}{COMMANDS[name][1]}" for name in names]
    return "\n".join(["usage: diffnext COMMAND [--help] ...", "", *lines])
