# SPDX-License-Identifier: Apache-2.0
"""Work that any number of processes, on any nodes, share by means of a folder that all of them see.

A process shows that it lives by touching a file of its own. A unit of work belongs to whoever made the
last file of its name: `7.0`, then `7.1` by one that took it over, and so on. The system makes a file
for one process only, on network file systems too (O_EXCL, atomic since NFS 3); so two never get the
same unit at the same time, unless the first was taken for dead. Times are compared by the clock of the
file system alone.

Units are claimed in their order, so which ones are free is found by a few looks, however many there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading

from diffnext.utils.files import replacing, write_bytes

LEASE_S = 60.0  # without a sign of life, from which on a process counts as dead
SIGNS = 6  # of life that a process gives in this time


class Members:
    """The processes that share a work, by the files with which they show that they live.

    Args:
        folder: of these files; made if it is not there, in one that is.
        lease_s: silence in seconds from which on a process counts as dead.
    """

    def __init__(self, folder: str, lease_s: float = LEASE_S) -> None:
        self.folder, self.lease_s = folder, lease_s

    def enter(self) -> Member:
        """Become one of them.

        Raises:
            FileNotFoundError: the work is over, and its folder gone.
        """
        _make(self.folder)
        return Member(self)

    def living(self) -> list[str]:
        """The names of those that live, or died a moment ago."""
        try:
            names = sorted(name for name in os.listdir(self.folder) if not name.startswith("."))
        except FileNotFoundError:
            return []
        now = self.now() if names else 0.0
        return [name for name in names if self.lives(name, now)]

    def now(self) -> float:
        """The clock of the file system, in seconds."""
        path = os.path.join(self.folder, f".clock.{secrets.token_hex(8)}")
        with open(path, "xb") as stream:
            stream.write(b".")
            stream.flush()
            now = os.fstat(stream.fileno()).st_mtime
        os.unlink(path)
        return now

    def lives(self, name: str, now: float) -> bool:
        """Whether a process gave a sign of life within the lease.

        Of one on this machine that has ended, this is known at once.
        """
        try:
            with open(
                os.path.join(self.folder, name), encoding="utf-8"
            ) as stream:  # not from a cache
                age = now - os.fstat(stream.fileno()).st_mtime
                holder = stream.read()
        except FileNotFoundError:
            return False
        return age <= self.lease_s and not _has_ended(holder)


class Member:
    """This process as one that shares the work: a thread gives signs of life until `leave`.

    A process that was taken for dead may find its file, or the whole folder, gone; it is not made
    again, and what it then writes there fails.
    """

    def __init__(self, members: Members) -> None:
        host = re.sub(r"[^\w-]", "_", socket.gethostname())
        self.name = f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
        self._path = os.path.join(members.folder, self.name)
        pid = os.getpid()
        known = {"machine": _machine(), "pid": pid, "began": _began(pid)}
        # whole from the first moment: others would wait for one that is killed before it says who it is
        with replacing(self._path, durable=False) as aside:
            aside.write_text(json.dumps(known), encoding="utf-8")
        self._pause_s = members.lease_s / SIGNS
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signs-of-life", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Be a member no longer. Again: nothing."""
        self._left.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _run(self) -> None:
        while not self._left.wait(self._pause_s):
            with contextlib.suppress(OSError):  # a server may answer the next time
                os.utime(self._path)  # by the server's clock


class Leases:
    """Units of work, by number: who has which, and which are done.

    Args:
        folder: of the files that say so; made if it is not there, in one that is.
        count: units.
        name: of this process among the members.
        members: those who share the work.
    """

    def __init__(self, folder: str, count: int, name: str, members: Members) -> None:
        self._claims, self._done = os.path.join(folder, "claims"), os.path.join(folder, "done")
        for path in (folder, self._claims, self._done):
            _make(path)
        self.count = count
        self._name, self._members = name, members
        self._next = 0  # units below it were claimed
        self._left = list(range(count))  # units that are not known to be done

    def claim(self) -> tuple[int, bool] | None:
        """Take a unit that nobody has, or one of a process that died before the unit was done.

        Returns:
            Its number, and whether somebody had it before; None if there is none to be had now.
        """
        while self._next < self.count:
            unit = self._next
            self._next += 1
            if self._take(unit, 0):
                return unit, False
            self._next = self._first_free()
        return self._take_over()

    def holders(self, unit: int) -> set[str]:
        """The names of all that had a unit; this process is one of them if it has it now."""
        names = set()
        for turn in range(self._last_turn(unit) + 1):
            with open(self._claim(unit, turn), encoding="utf-8") as stream:
                names.add(stream.read())
        return names - {""}

    def finish(self, unit: int, content: bytes) -> None:
        """Say that a unit is done, and leave what is to be known of it for `result`."""
        write_bytes(os.path.join(self._done, str(unit)), content)

    def result(self, unit: int) -> bytes:
        """What was left for a unit that is done."""
        with open(os.path.join(self._done, str(unit)), "rb") as stream:
            return stream.read()

    def done(self) -> set[int]:
        """The units that are done."""
        return {int(name) for name in os.listdir(self._done) if name.isdigit()}

    def all_done(self) -> bool:
        """Whether no unit is left; as long as the last one is, the others are not asked after."""
        if self._left and os.path.exists(os.path.join(self._done, str(self._left[-1]))):
            self._look()
        return not self._left

    def _look(self) -> None:
        """Find out which units are left."""
        done = self.done()
        self._left = [unit for unit in self._left if unit not in done]

    def _first_free(self) -> int:
        """The first unit from `_next` on that nobody claimed: ahead in steps that double, then between."""
        free, step = self._next, 1
        while free + step <= self.count and self._is_claimed(free + step - 1):
            free += step
            step *= 2
        end = min(free + step - 1, self.count)
        while free < end:
            middle = (free + end) // 2
            if self._is_claimed(middle):
                free = middle + 1
            else:
                end = middle
        return free

    def _is_claimed(self, unit: int, turn: int = 0) -> bool:
        return os.path.exists(self._claim(unit, turn))

    def _last_turn(self, unit: int) -> int:
        """The number of the last claim on a unit that was claimed."""
        turn = 0
        while self._is_claimed(unit, turn + 1):
            turn += 1
        return turn

    def _take(self, unit: int, turn: int) -> bool:
        """Make the file of a claim; False if it is there."""
        try:
            with open(self._claim(unit, turn), "x", encoding="utf-8") as stream:
                stream.write(self._name)
        except FileExistsError:
            return False
        return True

    def _take_over(self) -> tuple[int, bool] | None:
        """All are claimed: take one that is not done, and whose holder died."""
        self._look()
        now = self._members.now() if self._left else 0.0
        for unit in self._left:
            turn = self._last_turn(unit)
            if not self._is_held(unit, turn, now) and self._take(unit, turn + 1):
                return unit, True
        return None

    def _is_held(self, unit: int, turn: int, now: float) -> bool:
        with open(self._claim(unit, turn), encoding="utf-8") as stream:
            age = now - os.fstat(stream.fileno()).st_mtime
            holder = stream.read()
        if not holder:  # its holder died before the name was written, or writes it this moment
            return age <= self._members.lease_s / SIGNS
        return self._members.lives(holder, now)

    def _claim(self, unit: int, turn: int) -> str:
        return os.path.join(self._claims, f"{unit}.{turn}")


def _make(folder: str) -> None:
    """Make a folder, but not the one it lies in: what is gone because all is done does not come back."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)


def _machine() -> str:
    """Names a system in which process numbers mean the same; "" where that is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return f"{stream.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process of this machine began, which tells it from a later one of its number.

    "" if it has ended, be it that its parent has not read how; or where the system does not say.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            state, *rest = stream.read().rpartition(") ")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]


def _has_ended(holder: str) -> bool:
    """Whether a process, by what its file says, was of this machine and is gone."""
    try:
        known = json.loads(holder)
        if not known["machine"] or known["machine"] != _machine():
            return False
        os.kill(known["pid"], 0)
        return known["began"] != _began(known["pid"])
    except ProcessLookupError:
        return True
    except (KeyError, ValueError, PermissionError):  # of another version; somebody else's
        return False
