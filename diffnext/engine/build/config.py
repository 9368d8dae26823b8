# SPDX-License-Identifier: Apache-2.0
"""The type of a run's options where the engine is built."""

from typing import Any

Config = Any  # diffnext.config.CfgNode, which this layer does not import
