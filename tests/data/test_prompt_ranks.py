# SPDX-License-Identifier: Apache-2.0
"""Several processes that embed the texts of one build, some of which die."""

import os
import signal
import time

import pytest

from diffnext.data import prompt_ranks
from diffnext.data.prompt_store import PromptStore
from tests.data.texts import WIDTH, Encoder, states_of

ENCODER = {"class": "Stub", "width": WIDTH}
TEXTS = {f"{'long ' * (n % 7)}{n}" for n in range(60)}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(prompt_ranks, "POLL_S", 0.01)


class SlowEncoder(Encoder):
    def __call__(self, texts):
        time.sleep(0.01)
        return super().__call__(texts)


def fork(cache, encoder):
    """A process that helps."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = 0 if prompt_ranks.help_out(cache, ENCODER, lambda: encoder, batch_size=4) else 2
    finally:
        os._exit(code)


def assert_whole(cache):
    found = PromptStore(cache)(sorted(TEXTS))
    assert {text: bytes(value["data"]) for text, value in found.items()} == {
        text: states_of(text).tobytes() for text in TEXTS
    }


def test_each_text_is_embedded_by_one_of_them(tmp_path):
    cache = str(tmp_path)
    store = PromptStore(cache, ENCODER)
    work = prompt_ranks.create(store, TEXTS, ENCODER, unit_texts=4)
    encoder = SlowEncoder()
    children = [fork(cache, SlowEncoder()) for _ in range(2)]
    while len(work.members.living()) < 2:
        time.sleep(0.001)
    done = prompt_ranks.take_part(work, store, lambda: encoder, batch_size=4)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    work.discard()
    store.load()
    assert 0 < done < 15
    lines = [path.read_text().splitlines() for path in tmp_path.glob("*/p-*/*.index")]
    assert len(lines) == 3 and sum(map(len, lines)) == len(store) == 60
    assert_whole(cache)
    assert prompt_ranks.find(cache) is None


def test_what_a_dead_process_had_is_done_by_another(tmp_path):
    class Stuck(Encoder):
        def __call__(self, texts):
            if len(self.batches) == 3:  # in the second half of its second unit
                (tmp_path / "stuck").touch()
                time.sleep(60)
            return super().__call__(texts)

    cache = str(tmp_path)
    store = PromptStore(cache, ENCODER)
    work = prompt_ranks.create(store, TEXTS, ENCODER, unit_texts=8)
    child = fork(cache, Stuck())
    while not (tmp_path / "stuck").exists():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    encoder = Encoder()
    assert prompt_ranks.take_part(work, store, lambda: encoder) == 7  # of 8
    assert sum(map(len, encoder.batches)) == 60 - 12  # no batch that was written is made again
    store.load()
    assert_whole(cache)


def test_a_leader_that_begins_anew_gives_up_the_work_of_one_that_died(tmp_path):
    store = PromptStore(str(tmp_path), ENCODER)
    old = prompt_ranks.create(store, TEXTS, ENCODER)
    os.unlink(old.folder + "/head.json")  # it had not got further
    older = prompt_ranks.create(store, TEXTS, ENCODER)
    work = prompt_ranks.create(store, {"a", "b"}, ENCODER)
    assert not older.is_there
    assert prompt_ranks.find(str(tmp_path)).folder == work.folder
    with pytest.raises(OSError):
        prompt_ranks.take_part(older, store, Encoder)
    assert prompt_ranks.take_part(work, store, Encoder) == 1


def test_who_embeds_for_a_work_that_was_given_up_stops_after_its_batch(tmp_path):
    """Its unit may be of hours; what it has done is not lost."""
    store = PromptStore(str(tmp_path), ENCODER)
    work = prompt_ranks.create(store, TEXTS, ENCODER)

    class Late(Encoder):
        def __call__(self, texts):
            if len(self.batches) == 1:
                work.discard()
            return super().__call__(texts)

    late = Late()
    assert prompt_ranks.help_out(str(tmp_path), ENCODER, lambda: late, batch_size=4) == 0
    store.load()
    assert len(late.batches) == 2 and len(store) == 8


def test_what_is_gone_does_not_come_back(tmp_path):
    """As where one that was slow finds a work the moment before it is removed with the store."""
    store = PromptStore(str(tmp_path), ENCODER)
    work = prompt_ranks.create(store, TEXTS, ENCODER)
    store.discard()
    with pytest.raises(FileNotFoundError):
        prompt_ranks.take_part(work, store, Encoder)
    assert os.listdir(tmp_path) == []


def test_a_store_is_removed_at_one_moment_for_those_who_embed(tmp_path, monkeypatch):
    store = PromptStore(str(tmp_path), ENCODER)
    work, seen = prompt_ranks.create(store, TEXTS, ENCODER), []
    unlink = os.unlink

    def look(path, **options):
        seen.append(work.is_there)
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", look)
    store.discard()
    assert seen and not any(seen)


def test_helpers_have_the_same_encoder_or_nothing_to_do(tmp_path):
    cache = str(tmp_path)
    assert prompt_ranks.help_out(cache, ENCODER, Encoder) == 0
    prompt_ranks.create(PromptStore(cache, ENCODER), TEXTS, ENCODER)
    with pytest.raises(ValueError, match="with another text encoder; give the same --text-model"):
        prompt_ranks.help_out(cache, ENCODER | {"dtype": "bfloat16"}, Encoder)
