# SPDX-License-Identifier: Apache-2.0
"""What tests of builds begin with."""

import pytest

from tests.data.cache_builds import write_photos


@pytest.fixture
def photos(tmp_path):
    """Seven pictures of noise with captions, in a folder."""
    return write_photos(tmp_path / "photos")
