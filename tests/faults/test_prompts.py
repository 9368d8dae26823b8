# SPDX-License-Identifier: Apache-2.0
"""Builds that embed their prompts and are killed at any moment: like one that was not, in the end."""

import argparse
import os
import random
import signal
import time

import numpy as np
import pytest

from diffnext.cli import cache_prompts
from diffnext.data.cache import build
from diffnext.data.prompt_cache import embeddings_in
from diffnext.data.records import open_reader
from tests.data import cache_builds
from tests.data.texts import WIDTH, Encoder, states_of

ENCODER = {"class": "Stub", "width": WIDTH, "max_length": 100}
COUNT = 16
BATCH = 2


@pytest.fixture
def photos(tmp_path):
    folder = cache_builds.write_photos(tmp_path / "photos")
    for number in range(7, COUNT):
        cache_builds.write_picture(folder, f"p{number}", number)
    return folder


def work(photos, output, log):
    """One build from the scan to the end; each text and each picture takes its time."""
    args = argparse.Namespace(together=False, text_batch_size=BATCH)

    def note(texts):
        with open(log, "ab", buffering=0) as stream:
            stream.write(b"." * len(texts))
        time.sleep(0.002)
        return Encoder()(texts)

    def encode(frames):
        time.sleep(0.002)
        return cache_builds.encode(frames)

    cache_prompts.load_encoder = lambda args: note
    cache_prompts.bar = lambda items, total, name: items
    plan = cache_builds.plan_for(photos, output, text_encoder=ENCODER)
    store = cache_prompts.embed_plan(args, plan, many=False)
    build(plan, encode, batch_size=BATCH, workers=0)
    store.discard()


def lives(photos, output, log, seconds):
    """Let a child build for so long; whether it came to its end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work(photos, output, log)
            code = 0
        finally:
            os._exit(code)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code == 0


def test_a_build_that_embeds_prompts_is_killed_over_and_over(photos, tmp_path):
    random.seed(0)
    output, log, deaths = tmp_path / "cache", tmp_path / "log", 0
    while not lives(photos, output, log, random.uniform(0.005, 0.01) * 1.2**deaths):
        deaths += 1
    assert deaths >= 3
    reader = open_reader(output)
    records = [reader[number] for number in range(len(reader))]
    names = sorted(record["words"][0] for record in records)
    assert names == sorted(path.read_text() for path in photos.glob("*.txt"))
    for record in records:
        assert record["words"][1] == record["words"][0].partition(" It")[0]
        for text, one in zip(record["words"], embeddings_in(record), strict=True):
            stored = np.frombuffer(one["data"], np.float16).reshape(one["shape"])
            np.testing.assert_array_equal(stored, states_of(text))
    # a batch in hand is lost with each; and once the store is gone, nothing is embedded again
    assert 2 * COUNT <= log.stat().st_size <= 2 * COUNT + BATCH * deaths
    assert not (output / "diffnext.prompts").exists()
