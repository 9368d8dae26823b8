# SPDX-License-Identifier: Apache-2.0
"""Training algorithms: what is minimised, and who moves."""

from diffnext.utils.registry import Registry

METHODS = Registry("METHOD.TYPE", package="diffnext.methods")
