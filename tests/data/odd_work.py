# SPDX-License-Identifier: Apache-2.0
"""Calls that worker processes make in tests: some return, some hang, some take the process down."""

import importlib
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffnext.data.decoding import decode

DECODED = "decoded.log"  # beside the media: a byte for each that was decoded


def work(order):
    """Do what `order`, a word and its argument, says."""
    word, value = order
    return ACTS[word](value)


@dataclass(frozen=True)
class OddOrder:
    """A stand-in for the order of a medium: a call, and how large its result counts."""

    word: str
    value: Any = None
    num_bytes: int = 1


def carry_out(order):
    return work((order.word, order.value))


def examine(order):
    """Probe a medium as a plan does, but crash where its name is evil."""
    from diffnext.data import view_rules

    if "evil" in str(order[0]):
        _kill(signal.SIGSEGV)
    return view_rules.examine(order)


def noted_decode(order):
    """Decode a medium, and let others know that it is done."""
    decoded = decode(order)
    with open(os.path.join(os.path.dirname(order.location.path), DECODED), "ab") as log:
        log.write(b".")
    return decoded


def _print(text):
    print(text, flush=True)
    os.write(1, text.encode())
    return text


def _import(name):
    """All modules that are there then, and the CPU seconds of this process since its start."""
    importlib.import_module(name)
    return set(sys.modules), time.process_time()


def _kill(number):
    os.kill(os.getpid(), number)
    time.sleep(600)


def _note(order):
    """Add a line to a file, to count calls."""
    path, value = order
    with open(path, "a") as stream:
        print(value, file=stream)
    return value


def _faults(times):
    """Pages that the system had to give while four arrays of 2 MB were made, time after time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        [np.ones(2 << 20, np.uint8) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _raise(reason):
    raise OddError(reason, os.getpid())


class OddError(Exception):
    """Cannot be unpickled: it wants two arguments and remembers one."""

    def __init__(self, reason, number):
        super().__init__(reason)


ACTS = {
    "pid": lambda _: os.getpid(),
    "echo": lambda value: value,
    "double": lambda value: 2 * value,
    "sleep": time.sleep,
    "wait": lambda seconds: time.sleep(seconds) or seconds,
    "kill": _kill,
    "exit": os._exit,
    "raise": _raise,
    "print": _print,
    "note": _note,
    "faults": _faults,
    "ones": lambda count: [np.ones(count, np.uint8), np.arange(count // 8)],
    "import": _import,
    "segfault": lambda _: _kill(signal.SIGSEGV),
}
