# SPDX-License-Identifier: Apache-2.0
"""What tests of the engine share."""

import os

import pytest


@pytest.fixture
def no_waiting_for_disks(monkeypatch):
    """Bytes are handed to the system and not waited for: on a busy disk that is most of a toy run's time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
