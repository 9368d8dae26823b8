# SPDX-License-Identifier: Apache-2.0
"""What all tests stand on: a place of their own, signals as a terminal leaves them, a log not set up yet."""

import logging
import signal

import hypothesis
import pytest

from tests import place
from tests.watchdog import Watchdog

place.settle()

# How long an example takes is a matter of the machine's load, not of what is tested; and what passes
# once passes again. `--hypothesis-profile=default` looks for other examples.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("same")

# `nohup`, and shells that start a job in the background, have them ignored, which children inherit
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config):
    config.pluginmanager.register(Watchdog())


@pytest.fixture(autouse=True)
def log_of_its_own():
    """Undo what a run in this process has done to the log.

    pytest listens to a logger that does not propagate; one that does again would be heard twice.
    """
    yield
    logger = logging.getLogger("diffnext")
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    for handler in list(logger.handlers):
        if type(handler) in (logging.StreamHandler, logging.FileHandler):  # not those of pytest
            logger.removeHandler(handler)
            handler.close()
