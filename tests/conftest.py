# SPDX-License-Identifier: Apache-2.0
"""What all tests stand on: signals as a terminal leaves them, for the processes that tests start."""

import signal

# `nohup`, and shells that start a job in the background, have them ignored, which children inherit
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
