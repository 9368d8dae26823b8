# SPDX-License-Identifier: Apache-2.0
"""Python values through pipes: a pickle, and the arrays in it beside it, which are not copied for that."""

from __future__ import annotations

import io
import math
import pickle
import select
import struct
import time
from collections.abc import Sequence
from typing import Any

SIZE = struct.Struct("<Q")


def send(stream: io.RawIOBase, value: Any) -> None:
    """Write a value."""
    write(stream, pack(value))


def pack(value: Any) -> list[memoryview]:
    """A pickle and its arrays: number of parts, size of each, then the parts themselves."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    sizes = b"".join(SIZE.pack(len(part)) for part in parts)
    return [memoryview(SIZE.pack(len(parts)) + sizes), *parts]


def write(stream: io.RawIOBase, parts: Sequence[memoryview]) -> None:
    """Write what `pack` gave."""
    for part in parts:
        while part:
            part = part[stream.write(part) :]


def receive(stream: io.FileIO, deadline: float = math.inf) -> Any:
    """Read what `pack` gave.

    Raises:
        TimeoutError: it was not complete by `deadline`, of time.monotonic().
        EOFError: the process has ended.
    """
    (count,) = SIZE.unpack(_read(stream, SIZE.size, deadline))
    sizes = _read(stream, count * SIZE.size, deadline)
    parts = [_read(stream, size, deadline) for (size,) in SIZE.iter_unpack(sizes)]
    return pickle.loads(parts[0], buffers=parts[1:])


def _read(stream: io.FileIO, size: int, deadline: float) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        if deadline < math.inf:
            _wait(stream, deadline)
        count = stream.readinto(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


def _wait(stream: io.FileIO, deadline: float) -> None:
    poll = select.poll()  # unlike select, for descriptors of any number
    poll.register(stream, select.POLLIN)
    if not poll.poll(max(0.0, 1e3 * (deadline - time.monotonic()))):
        raise TimeoutError
