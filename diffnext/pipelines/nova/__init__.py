# SPDX-License-Identifier: Apache-2.0
"""NOVA, arXiv:2412.14169."""
