# SPDX-License-Identifier: Apache-2.0
"""Processes: who this one is, and how they are arranged."""
