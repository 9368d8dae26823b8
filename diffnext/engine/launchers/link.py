# SPDX-License-Identifier: Apache-2.0
"""The line between the command that starts a run on several nodes and the watcher on each of them.

A watcher connects, says which node it is, and tells of faults and of its end; the command tells it which
signals it has got. Lines of JSON over TCP; the command's word for a watcher holds a secret, so that nobody
else is listened to.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from typing import Any

import psutil

ANSWER_S = 10.0  # for one address to answer
# after six minutes without an answer a line is lost; a run outlives shorter gaps of the network
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 10}


@dataclass(frozen=True)
class Word:
    """What the command gives to the watchers, in their command line."""

    addresses: Sequence[str]  # of the command's machine
    port: int
    secret: str
    command: Sequence[str]  # what to start on each node
    num_processes: int
    devices: str  # GPUs that they see

    def __str__(self) -> str:
        """Letters, digits, "-", "_" and "=": nothing that a shell or pdsh reads in another way."""
        return base64.urlsafe_b64encode(json.dumps(vars(self)).encode()).decode()

    @classmethod
    def read(cls, text: str) -> Word:
        """The word that `str` has written."""
        return cls(**json.loads(base64.urlsafe_b64decode(text)))


class Hub:
    """The command's end: knows the nodes that have come, and what they told."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        self._server = _serve()
        self._nodes: dict[int, socket.socket] = {}
        self._told: SimpleQueue[tuple[int, dict[str, Any] | None] | None] = SimpleQueue()
        threading.Thread(target=self._accept, name="diffnext-hub", daemon=True).start()

    def word(self, command: Sequence[str], num_processes: int, devices: str) -> Word:
        """What a watcher needs to find this command and to do its work."""
        port = self._server.getsockname()[1]
        addresses = own_addresses()
        return Word(addresses, port, self.secret, list(command), num_processes, devices)

    def nodes(self) -> list[int]:
        """Numbers of the nodes that are connected."""
        return sorted(self._nodes)

    def news(self) -> list[tuple[int, dict[str, Any] | None]]:
        """What nodes told since the last time, in that order; None of one whose line is lost."""
        found = []
        with contextlib.suppress(Empty):
            while True:
                found.append(self._told.get_nowait())
        return found

    def wait_for_news(self) -> tuple[int, dict[str, Any] | None] | None:
        """The next of them, as soon as it comes; None once this is closed."""
        return self._told.get()

    def send(self, node: int, **message: Any) -> None:
        """Tell a node something; one that has just gone does not hear it."""
        line = self._nodes.get(node)
        if line is not None:
            with contextlib.suppress(OSError):
                line.sendall(_line(message))

    def close(self) -> None:
        """Take no more nodes, and let go of those that are there."""
        for line in [self._server, *self._nodes.values()]:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)  # which wakes who waits for it; to close does not
        self._server.close()
        self._told.put(None)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                line, _ = self._server.accept()
                threading.Thread(target=self._listen, args=(line,), daemon=True).start()

    def _listen(self, line: socket.socket) -> None:
        """One node, from its first word to its last."""
        node = None
        with line, contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            line.settimeout(ANSWER_S)
            stream = line.makefile("rb")
            hello = json.loads(stream.readline(4096))
            if not secrets.compare_digest(hello["secret"], self.secret):
                return
            _keep_alive(line)
            line.sendall(_line({"welcome": True}))
            node = int(hello["node"])
            self._nodes[node] = line
            self._told.put((node, {"host": hello["host"]}))
            for text in stream:
                self._told.put((node, json.loads(text)))
        if node is not None and self._nodes.get(node) is line:  # and no later one
            del self._nodes[node]
            self._told.put((node, None))


class Link:
    """A watcher's end.

    Args:
        word: the command's.
        node: number of this node.

    Raises:
        ConnectionError: none of the command's addresses answers.
    """

    def __init__(self, word: Word, node: int) -> None:
        self._line = _connect(word, {"secret": word.secret, "node": node})
        self._closing = False

    def listen(self, hear: Callable[[dict[str, Any]], None], lost: Callable[[], None]) -> None:
        """From now on, call `hear` with each message, and `lost` once if the line is cut."""

        def read() -> None:
            with contextlib.suppress(OSError, ValueError):
                for text in self._line.makefile("rb"):
                    hear(json.loads(text))
            if not self._closing:
                lost()

        threading.Thread(target=read, name="diffnext-link", daemon=True).start()

    def tell(self, **message: Any) -> None:
        """Tell the command something; it may have gone."""
        with contextlib.suppress(OSError):
            self._line.sendall(_line(message))

    def close(self) -> None:
        """Hang up, after the last message has been read."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)


def _connect(word: Word, hello: dict[str, Any]) -> socket.socket:
    """A line to the first of the command's addresses that answers as it should."""
    seen = os.environ.get("SSH_CONNECTION", "").split()[:1]  # where addresses are translated
    tried = list(dict.fromkeys([*word.addresses, *seen]))
    for address in tried:
        with contextlib.suppress(OSError, ValueError):
            line = socket.create_connection((address, word.port), timeout=ANSWER_S)
            if _greet(line, hello | {"host": socket.gethostname()}):
                _keep_alive(line)
                return line
            line.close()
    raise ConnectionError(
        f"{socket.gethostname()} cannot reach the command that started it, port {word.port} of "
        f"{', '.join(tried)}; start it on a node of the hostfile, or open that way in the firewall"
    )


def _greet(line: socket.socket, hello: dict[str, Any]) -> bool:
    """Whether it is the command that answers."""
    line.sendall(_line(hello))
    answer = bytearray()
    while not answer.endswith(b"\n"):
        byte = line.recv(1)  # no more than the answer: the rest is for who listens later
        if not byte:
            return False
        answer += byte
    return json.loads(answer) == {"welcome": True}


def _keep_alive(line: socket.socket) -> None:
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _serve() -> socket.socket:
    """A free port, at the addresses of IPv6 too where the system has them."""
    with contextlib.suppress(OSError, ValueError):
        return socket.create_server(
            ("::", 0), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
        )
    return socket.create_server(("", 0), backlog=1024)


def own_addresses() -> list[str]:
    """The addresses of this machine, those of IPv4 first, those that only itself can reach at the end.

    Those that hold for one cable, such as fe80::1%eth0, have no meaning on other machines.
    """
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    known = [ip_address(address.partition("%")[0]) for address in found]
    known.sort(key=lambda address: (address.is_loopback, address.version))
    return [str(address) for address in known if not address.is_link_local]


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
