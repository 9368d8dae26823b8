# SPDX-License-Identifier: Apache-2.0
"""The training engine: the loop, what hangs on it, and how a network is spread and stepped."""
