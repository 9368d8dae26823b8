# SPDX-License-Identifier: Apache-2.0
"""A server of one bucket that speaks the part of Google's JSON API that reading takes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.data.remote.web import Handler, serving

BUCKET = "caches"
LIST = f"/storage/v1/b/{BUCKET}/o"
MEDIA = f"/download/storage/v1/b/{BUCKET}/o/"


class _Handler(Handler):
    """https://cloud.google.com/storage/docs/json_api/v1/objects: list, get, and get with alt=media."""

    def answer(self, *, body: bool) -> None:
        url = urlsplit(self.path)
        if url.path.startswith(MEDIA):
            return self.send_file(self.web.folder / unquote(url.path.removeprefix(MEDIA)), body)
        if url.path == LIST:
            query = parse_qs(url.query)
            return self._send_json(self._listed(query.get("prefix", [""])[0]))
        file = self.web.folder / unquote(url.path.removeprefix(f"{LIST}/"))
        if url.path.startswith(f"{LIST}/") and file.is_file():
            return self._send_json(self._described(file))
        return self.send(404, b"{}", body)

    def _listed(self, prefix: str) -> dict:
        """Objects and folders whose names go on with one part after the prefix."""
        head, _, start = prefix.rpartition("/")
        found = [path for path in (self.web.folder / head).glob("*") if path.name.startswith(start)]
        folders = [f"{self._name(path)}/" for path in found if path.is_dir()]
        return {
            "kind": "storage#objects",
            "items": [self._described(path) for path in found if path.is_file()],
            "prefixes": folders,
        }

    def _described(self, file: Path) -> dict:
        digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).digest()
        return {
            "kind": "storage#object",
            "name": self._name(file),
            "bucket": BUCKET,
            "size": str(file.stat().st_size),
            "md5Hash": base64.b64encode(digest).decode(),
            "etag": f"C{file.stat().st_mtime_ns}",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def _name(self, path: Path) -> str:
        return path.relative_to(self.web.folder).as_posix()

    def _send_json(self, value: dict) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # no longer waited for
            self.send(200, json.dumps(value).encode(), True, {"Content-Type": "application/json"})


def serving_bucket(folder: Path):
    """Serve what is below `folder` as the objects of the bucket."""
    return serving(folder, handler=_Handler)
