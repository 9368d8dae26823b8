# SPDX-License-Identifier: Apache-2.0
"""How the processes of a run are started: LAUNCHERS by name.

A launcher is a function of a `Job` that runs it to its end and returns its exit code.
"""

from diffnext.utils.registry import Registry

LAUNCHERS = Registry("launcher", package="diffnext.engine.launchers")
