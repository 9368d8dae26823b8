# SPDX-License-Identifier: Apache-2.0
"""How a network is spread over processes and stepped: BACKENDS by name."""

from diffnext.utils.registry import Registry

BACKENDS = Registry("PARALLEL.BACKEND", package="diffnext.engine.backends")
