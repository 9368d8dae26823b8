# SPDX-License-Identifier: Apache-2.0
"""A web server of one folder that answers ranges, and fails as it is told to."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("500", "drop", "short", "long", "flip")


class Web:
    """What a server does with a folder.

    Args:
        folder: what it serves.
        ranges: whether it answers Range requests with parts.
        lists: whether it shows what is in the folder.
    """

    def __init__(self, folder: Path, *, ranges: bool = True, lists: bool = True) -> None:
        self.folder = folder
        self.ranges = ranges
        self.lists = lists
        self.faults: dict[str, list[str]] = {}  # file -> what goes wrong with the next requests
        self.forbidden: set[str] = set()
        self.sent: Counter[str] = Counter()  # bytes by file
        self.gets: Counter[str] = Counter()  # requests by file, those for its head left out
        self.lock = threading.Lock()
        self.url = ""

    def next_fault(self, name: str) -> str:
        with self.lock:
            waiting = self.faults.get(name, [])
            return waiting.pop(0) if waiting else ""


class Handler(BaseHTTPRequestHandler):
    """Answers as the `Web` of its server says."""

    protocol_version = "HTTP/1.1"

    @property
    def web(self) -> Web:
        return self.server.web

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        """Answer a request, or one for the head of what it would give."""
        name = self.path.strip("/").split("/")[-1]
        if name == "cache" and self.web.lists:
            return self._send_listing(body)
        self.send_file(self.web.folder / name, body)

    def send_file(self, file: Path, body: bool) -> None:
        """Answer with a file, or the part of it that is wanted; or with what goes wrong."""
        name = file.name
        if name in self.web.forbidden or not file.is_file():
            return self.send(403 if name in self.web.forbidden else 404, b"", body)
        content = file.read_bytes()
        part, code, headers = self._part(content)
        with self.web.lock:
            self.web.gets[name] += body
        fault = self.web.next_fault(name) if body else ""
        if fault == "500":
            return self.send(500, b"", body)
        if body:
            with self.web.lock:
                self.web.sent[name] += len(part)
        self.send(code, part, body, headers, fault)

    def _part(self, content: bytes) -> tuple[bytes, int, dict[str, str]]:
        wanted = self.headers.get("Range", "")
        if not wanted or not self.web.ranges:
            return content, 200, {}
        first, last = wanted.removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1]
        return part, 206, {"Content-Range": f"bytes {first}-{last}/{len(content)}"}

    def _send_listing(self, body: bool) -> None:
        names = [path.name for path in self.web.folder.iterdir()]
        page = "".join(f'<a href="{name}">{name}</a>\n' for name in names)
        self.send(200, page.encode(), body, {"Content-Type": "text/html"})

    def send(self, code: int, part: bytes, body: bool, headers=None, fault: str = "") -> None:
        if fault == "short":
            part = part[:-1]
        if fault == "long":
            part += b"x"
        if fault == "flip":
            part = bytes([part[0] ^ 1]) + part[1:]
        self.send_response(code)
        for key, value in ({"Content-Type": "application/octet-stream"} | (headers or {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not body:
            return
        if fault == "drop":
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return
        self.wfile.write(part)


@contextmanager
def serving(folder: Path, *, handler: type[Handler] = Handler, **options: bool):
    """Serve `folder` as URL/cache."""
    web = Web(folder, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.web = web
    web.url = f"http://127.0.0.1:{server.server_port}/cache"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
