# SPDX-License-Identifier: Apache-2.0
"""Caches that lie behind a URL: read by ranges at once, from local copies as soon as there are any."""
