# SPDX-License-Identifier: Apache-2.0
"""Embeddings in records: which texts, in which layout; and the store that keeps them before."""

from pathlib import Path

import codewithgpu
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffnext.data.parse import draw_prompts
from diffnext.data.prompt_cache import embed, embedded_types, embedding_of, fields_of, words_of
from diffnext.data.prompt_encoding import LivePrompts, copy_held, encode_texts
from diffnext.data.prompt_store import KEY_BYTES, KEYS, PromptStore
from diffnext.data.record_fields import record_types
from diffnext.data.records import open_writer
from tests.data.texts import WIDTH, Encoder, states_of

ENCODER = {"class": "Stub", "width": WIDTH, "max_length": 8}
text = st.text("ab. ", min_size=1, max_size=12).map(str.strip).filter(bool)


@settings(max_examples=60)
@given(
    st.lists(text, min_size=1, max_size=3, unique=True), st.one_of(st.just(""), text), st.integers()
)
def test_training_draws_the_embedding_of_the_text_that_it_would_draw(captions, short, seed):
    """With several captions and no short one, the first sentence is that of the first of them."""
    if len(captions) > 1 and not short:
        short = captions[0]
    fields = {"caption": captions[0], "text": short}
    fields |= {"captions": captions} if len(captions) > 1 else {}
    [record] = embed([fields], LivePrompts(Encoder()))
    options = {"seed": seed, "index": range(8), "epoch": [0] * 8}
    wanted, found = (draw_prompts([row] * 8, **options) for row in (fields, record))
    for text, states in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(states, states_of(text))


def test_nothing_is_stored_twice_in_a_record():
    assert words_of({"caption": "A cat. It sits.", "text": "cat"}) == ["A cat. It sits.", "cat"]
    assert words_of({"caption": "A cat. It sits.", "text": ""}) == ["A cat. It sits.", "A cat."]
    assert words_of({"caption": "A cat.", "text": ""}) == ["A cat.", ""]
    assert words_of({"caption": "cat", "text": "cat"}) == ["cat", ""]
    assert words_of({"text": "cat"}) == ["cat", ""]
    several = {"caption": "One.", "text": "one", "captions": ["One.", "Two."]}
    assert words_of(several) == ["One.", "one", "Two."]


@settings(max_examples=60)
@given(
    st.lists(text, min_size=1, max_size=3, unique=True), st.one_of(st.just(""), text), st.booleans()
)
def test_words_give_back_their_texts(captions, short, is_list):
    fields = {"caption": captions[0], "text": short}
    fields |= {"captions": tuple(captions)} if is_list else {}
    assert fields in list(fields_of(words_of(fields), several=is_list))
    assert list(fields_of([], several=is_list)) == []


def test_codewithgpu_reads_the_embeddings(tmp_path):
    types = record_types(["caption", "captions", "text"], embedded=True)
    several = {"caption": "One.", "text": "", "captions": ["One.", "Two. More."]}
    one = {"caption": "One.", "text": "", "captions": ["One."]}
    with open_writer(tmp_path, types) as writer:
        for known in embed([several, one], LivePrompts(Encoder())):
            writer.write({"shape": [2, 1, 1], "moments": np.zeros(2, "<f2"), **known})
    dataset = codewithgpu.RecordDataset(str(tmp_path))
    record, other = next(dataset), next(dataset)
    assert record["words"] == ["One.", "One.", "Two. More."]
    for value, word in ((record["caption"], "One."), (record["captions"][0], "Two. More.")):
        stored = np.frombuffer(value["data"], np.float16).reshape(value["shape"])
        np.testing.assert_array_equal(stored, states_of(word))
    assert len(record["captions"]) == 1
    assert other["text"] == {"data": b"", "shape": [0, WIDTH]}
    assert other["captions"] == []


def test_states_beyond_float16_are_an_error_of_their_sample():
    good = {"caption": "One.", "text": ""}
    bad = {"caption": "Two.", "text": ""}
    outcomes = embed([good, bad], LivePrompts(Encoder(huge={"Two."})))
    assert outcomes[0]["words"] == ["One.", ""]
    assert "beyond float16, for 'Two.'" in str(outcomes[1])


def test_labels_alone_have_no_embeddings():
    with pytest.raises(ValueError, match="labels and no captions"):
        embedded_types(record_types(["label"]))


def test_every_text_is_encoded_once_longest_first_in_smaller_batches_when_memory_lacks(tmp_path):
    texts = {f"{'long ' * n}{n}" for n in range(20)}
    encoder = Encoder(most=5)
    store = PromptStore(str(tmp_path), ENCODER)
    encode_texts(store, texts, encoder, batch_size=16)
    sizes = [len(batch) for batch in encoder.batches]
    assert max(sizes) == 4 and sum(sizes) == 20  # 16 and 8 were too many
    lengths = [len(one) for batch in encoder.batches for one in batch]
    assert lengths == sorted(lengths, reverse=True)
    found = store(sorted(texts))
    for one in texts:
        assert bytes(found[one]["data"]) == states_of(one).tobytes()


def test_an_error_that_is_not_of_memory_is_raised(tmp_path):
    def encode(texts):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        encode_texts(PromptStore(str(tmp_path), ENCODER), ["a", "b"], encode)


def test_a_store_goes_on_after_any_end_and_begins_anew_for_another_encoder(tmp_path):
    store = PromptStore(str(tmp_path), ENCODER)
    part = store.begin()
    part.write({"a": embedding_of(states_of("a")), "bad": None})
    part.write({"b": embedding_of(states_of("b"))})
    with open(Path(part.folder, KEYS), "ab") as stream:  # killed before it wrote the records
        stream.write(bytes(KEY_BYTES + 3))
    store = PromptStore(str(tmp_path), ENCODER)
    assert len(store) == 2 and "a" in store and "c" not in store and "bad" not in store
    with store.begin() as more:
        more.write({"c": embedding_of(states_of("c"))})
    store.load()
    for again in (store, PromptStore(str(tmp_path))):
        found = again(["a", "b", "c", "bad"])
        assert {one: bytes(value["data"]) for one, value in found.items()} == {
            one: states_of(one).tobytes() for one in "abc"
        }
    Path(part.folder, KEYS).write_bytes(b"")  # power failed before it was on the disk
    assert len(PromptStore(str(tmp_path), ENCODER)) == 1
    assert len(PromptStore(str(tmp_path), ENCODER | {"dtype": "bfloat16"})) == 0


def test_texts_that_the_cache_holds_are_copied(tmp_path):
    types = {
        k: v for k, v in record_types(["caption", "text"], embedded=True).items() if k != "moments"
    }
    samples = [{"caption": "A cat. It sits.", "text": ""}, {"caption": "A dog.", "text": "dog"}]
    with open_writer(tmp_path, types) as writer:
        for known in embed(samples, LivePrompts(Encoder())):
            writer.write({"shape": [1], **known})
    store = PromptStore(str(tmp_path), ENCODER)
    held = [(number, words_of(fields)) for number, fields in enumerate(samples)]
    assert copy_held(store, str(tmp_path), held, {"A cat.", "dog", "new"}) == 2
    assert bytes(store(["A cat."])["A cat."]["data"]) == states_of("A cat.").tobytes()
    assert bytes(store(["dog"])["dog"]["data"]) == states_of("dog").tobytes()
    assert "new" not in store and "A dog." not in store
