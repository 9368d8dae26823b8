# SPDX-License-Identifier: Apache-2.0
"""One cache of pictures for all tests of the tools; none changes it."""

import pytest

from tests.data.tools.small import build_photos


@pytest.fixture(scope="session")
def photos_and_cache(tmp_path_factory):
    return build_photos(tmp_path_factory)


@pytest.fixture(scope="session")
def photos(photos_and_cache):
    return photos_and_cache[0]


@pytest.fixture(scope="session")
def cache(photos_and_cache):
    return photos_and_cache[1]
