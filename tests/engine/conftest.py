# SPDX-License-Identifier: Apache-2.0
"""What tests of the engine share."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ASIDE = Path(sys.prefix, "8bit")  # where `make test` puts bitsandbytes, for the tests of it alone
_loaded: dict[str, ModuleType] = {}  # its modules, which cannot be imported a second time


@pytest.fixture
def no_waiting_for_disks(monkeypatch):
    """Bytes are handed to the system and not waited for: on a busy disk that is most of a toy run's time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def bitsandbytes(monkeypatch):
    """The package, which nobody finds any more after the test."""
    if importlib.util.find_spec("bitsandbytes") is None:
        if not ASIDE.is_dir():
            pytest.skip(f"bitsandbytes is not installed, nor in {ASIDE}, where make test puts it")
        monkeypatch.syspath_prepend(ASIDE)
    for name, module in _loaded.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module("bitsandbytes")
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        _loaded[name] = sys.modules.pop(name)
