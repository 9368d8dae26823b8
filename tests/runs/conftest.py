# SPDX-License-Identifier: Apache-2.0
"""What tests of whole runs share."""

import os

import pytest

from tests.runs.forks import Server


@pytest.fixture(scope="session")
def server():
    """Starts trainings in processes that have imported everything already."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    server = Server()
    yield server
    server.close()
