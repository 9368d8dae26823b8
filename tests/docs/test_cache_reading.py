# SPDX-License-Identifier: Apache-2.0
"""What the cache guide says of training on caches is what the options take."""

import inspect
import re
from pathlib import Path

from diffnext.config import get_cfg
from diffnext.data import urls
from diffnext.data.cache_identity import NOT_OF_ENCODING
from diffnext.data.datasets import split_spec
from diffnext.data.remote import store
from diffnext.data.remote.reader import RemoteReader
from diffnext.utils.registry import check_options

GUIDE = (Path(__file__).parents[2] / "docs" / "cache.md").read_text(encoding="utf-8")
SECTION = GUIDE.split("## Train on it")[1].split("\n## ")[0]


def read(tmp_path, text):
    file = tmp_path / "run.yml"
    file.write_text(text)
    cfg = get_cfg()
    cfg.merge_from_file(file)
    return cfg.TRAIN


def test_the_files_of_the_guide_are_read(tmp_path):
    several, remote = (
        read(tmp_path, text) for text in re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
    )
    assert split_spec(several.DATASET) == [
        ("photos_cache", 2),
        ("C:\\caches\\clips", 1),
        ("s3://bucket/caches/more", 0.5),
    ]
    assert split_spec(remote.DATASET) == [("s3://bucket/caches/photos", 1)]
    check_options(RemoteReader, remote.REMOTE_CONFIG, key="TRAIN.REMOTE_CONFIG")
    text, mapping = re.search(r"or the text `(.*?)`, or a mapping `(.*?)`", SECTION).groups()
    given = read(tmp_path, f"TRAIN:\n  DATASET: {mapping}\n")
    assert (
        split_spec(text) == split_spec(given.DATASET) == [("photos_cache", 2), ("clips_cache", 1)]
    )


def test_numbers_and_names_of_the_guide():
    assert f"tried {store.ATTEMPTS} times (`attempts`)" in SECTION and urls.SILENCE_S == 60
    options = inspect.signature(RemoteReader).parameters
    assert options["attempts"].default == store.ATTEMPTS
    scales = re.search(r"only scales latents \((.*?)\)", SECTION)[1].replace("`", "").split(", ")
    assert set(scales) <= set(NOT_OF_ENCODING)
