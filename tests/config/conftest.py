# SPDX-License-Identifier: Apache-2.0
"""Options to change."""

import pytest

from diffnext.config import get_cfg


@pytest.fixture
def cfg():
    return get_cfg()
