# SPDX-License-Identifier: Apache-2.0
"""Requests for media behind URLs: tried again where that may help; the error of those that stay in vain.

Such an error says nothing of the medium: it is of the network, the server or a password.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any, TypeVar

from diffnext.utils.files import FULL_DISK

T = TypeVar("T")

FETCH = "fetch"  # the stage of a failure that is not held against the medium
ATTEMPTS = 4  # with the pauses between them, 3.5 s
PAUSE_S = 0.5  # before the second attempt; doubled before each further one
LOST = 8  # requests in a row without an answer: no more than one attempt each, until one works


class FetchError(ConnectionError):
    """What is behind a URL cannot be had now; the message says why."""


class Patience:
    """Makes requests. For several threads."""

    def __init__(self) -> None:
        self._lost = 0  # requests in a row that were given up without an answer

    def __call__(self, url: str, call: Callable[[], T]) -> T:
        """Call until it works.

        Raises:
            FetchError: it failed `ATTEMPTS` times, or in a way that will not change.
            FileNotFoundError: the server says that nothing is there.
            OSError, ValueError: what has nothing to do with the network.
        """
        most = ATTEMPTS if self._lost < LOST else 1
        for attempt in range(1, most + 1):
            try:
                result = call()
            except Exception as error:  # libraries of servers raise what they like
                if _is_elsewhere(error):
                    raise
                if attempt == most or is_final(error):
                    self._lost += not is_final(error)  # a server that answers can be reached
                    times = f"{attempt} attempts failed, the last with " if attempt > 1 else ""
                    told = error.__cause__ if isinstance(error, FileNotFoundError) else error
                    reason = f"{times}{type(told or error).__name__}: {told or error}"
                    raise FetchError(f"{url}: {reason}") from error
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            else:
                self._lost = 0
                return result
        raise AssertionError("ATTEMPTS is at least 1")


patiently = Patience()


def is_of_network(error: Exception, location: Any) -> bool:
    """Whether an error, raised here or in a worker, may say nothing of the medium.

    So does a time limit that passes while it is read from where it lies: who was slow cannot be told.

    Args:
        location: of the medium; see location.py.
    """
    kind = getattr(error, "kind", "")  # of a WorkError
    waited = kind == TimeoutError.__name__ and location.is_remote
    return waited or isinstance(error, FetchError) or kind == FetchError.__name__


def is_final(error: Exception) -> bool:
    """Whether another attempt would end alike."""
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in (408, 425, 429)
    if isinstance(error, FileNotFoundError):
        return error.__cause__ is None  # else it stands for a connection that failed
    return isinstance(error, PermissionError | NotImplementedError | ImportError)


def _is_elsewhere(error: Exception) -> bool:
    """Whether an error is of the medium, of this machine, or a `FetchError` already."""
    if isinstance(error, FileNotFoundError):
        return error.__cause__ is None or _status(error) in (404, 410)
    if getattr(error, "errno", None) in FULL_DISK:
        return True
    return isinstance(error, FetchError | ValueError | NotImplementedError | ImportError)


def _status(error: Exception) -> int | None:
    """What a web server or S3 answered; None if it did not."""
    cause = error.__cause__ or error
    answer = getattr(cause, "response", None)  # of botocore
    if isinstance(answer, dict):
        return answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(cause, "status", None)
    return status if isinstance(status, int) else None  # libraries may call anything so


class PatientStream(io.RawIOBase):
    """A file behind a URL whose reads are tried again."""

    def __init__(self, url: str, stream: Any) -> None:
        self._url, self._stream = url, stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        start = self._stream.tell()

        def once() -> bytes:
            self._stream.seek(start)
            return self._stream.read(size)

        return patiently(self._url, once)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
        super().close()
