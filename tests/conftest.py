# SPDX-License-Identifier: Apache-2.0
"""What all tests stand on: signals as a terminal leaves them, and a log that nobody has set up yet."""

import logging
import signal

import hypothesis
import pytest

# How long an example takes is a matter of the machine's load, not of what is tested.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# `nohup`, and shells that start a job in the background, have them ignored, which children inherit
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
