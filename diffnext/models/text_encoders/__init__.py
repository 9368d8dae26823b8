# SPDX-License-Identifier: Apache-2.0
"""Encoders of prompts."""
