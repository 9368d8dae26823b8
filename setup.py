# SPDX-License-Identifier: Apache-2.0
"""For tools that look for this file; all facts of the package are in pyproject.toml."""

from setuptools import setup

setup()
