# SPDX-License-Identifier: Apache-2.0
"""Numbers in words."""

import pytest

from diffnext.utils.words import bytes_in_words


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 * 2**19, "1.5 MiB"),
        (20 * 2**30, "20 GiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_bytes_in_words(num_bytes, words):
    assert bytes_in_words(num_bytes) == words
