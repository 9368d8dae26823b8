# SPDX-License-Identifier: Apache-2.0
"""How the processes of a run are started: LAUNCHERS by name."""

from diffnext.utils.registry import Registry

LAUNCHERS = Registry("launcher", package="diffnext.engine.launchers")
