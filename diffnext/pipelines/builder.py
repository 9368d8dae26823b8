# SPDX-License-Identifier: Apache-2.0
"""Pipelines by name."""

from diffnext.utils.registry import Registry

PIPELINES = Registry("pipeline", package="diffnext.pipelines")
