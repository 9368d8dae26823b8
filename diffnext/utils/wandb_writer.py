# SPDX-License-Identifier: Apache-2.0
"""Shows a run in Weights & Biases, and never asks for anything."""

from __future__ import annotations

import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from diffnext.utils.files import write_text
from diffnext.utils.logging import logger
from diffnext.utils.metrics import Row

PROJECT = "diffnext"  # where WANDB_PROJECT names no other
PATIENCE_S = 30  # for the server to answer


class WandbWriter:
    """Rows and samples of a run; a resumed run goes on as the same one, by an id in `folder`.

    Without a key, or where the server cannot be reached, it writes offline, for `wandb sync` to
    send. WANDB_MODE, WANDB_PROJECT and the other variables of wandb hold.

    Args:
        folder: of the id and of wandb's own files.
        name: of a new run.
        config: options of the run.

    Raises:
        ValueError: wandb is not installed.
    """

    def __init__(self, folder: str | Path, *, name: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError("--wandb needs wandb: pip install diffnext[wandb]") from error
        self._wandb = wandb
        options: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "id": _run_id(Path(folder, "wandb_id")),
            "name": name,
            "config": dict(config),
            "dir": str(folder),
            "resume": "allow",
            "settings": wandb.Settings(console="off", quiet=True, init_timeout=PATIENCE_S),
        }
        mode = os.environ.get("WANDB_MODE", "online")
        if mode in ("online", "shared") and not has_key():
            logger.info("W&B: no key is set (wandb login), so the run is written offline")
            mode = "offline"
        try:
            self._run = wandb.init(mode=mode, **options)
        except wandb.errors.Error as error:
            logger.warning(f"W&B: {error}; the run is written offline")
            wandb.teardown()  # else the id is taken
            self._run = wandb.init(mode="offline", **options)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log({name: value for name, value in row.items() if value is not None})

    def show(self, step: int, samples: Sequence[tuple[Path, str]]) -> None:
        shown: dict[str, Any] = {"step": step}
        for path, caption in samples:
            kind = self._wandb.Video if path.suffix in (".mp4", ".gif") else self._wandb.Image
            shown[f"samples/{path.stem}"] = kind(str(path), caption=caption)
        self._run.log(shown)

    def close(self) -> None:
        self._run.finish()


def has_key() -> bool:
    """Whether wandb would find a key, or another credential, without asking."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if name and netrc.netrc(os.path.expanduser(name)).authenticators(host or ""):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _run_id(path: Path) -> str:
    """The id of the run, made when it begins."""
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    return path.read_text().strip()
