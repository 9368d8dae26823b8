# SPDX-License-Identifier: Apache-2.0
"""What training takes from the fields of a record."""

from __future__ import annotations

import numpy as np
import pytest

from diffnext.data.parse import choose_prompt, draw_prompts, first_sentence, moments

MOMENTS = np.arange(8 * 2 * 3, dtype="<f2").reshape(8, 2, 3)
RECORD = {
    "moments": MOMENTS.tobytes(),
    "shape": [8, 2, 3],
    "caption": "A cat. It sits.",
    "text": "cat",
}


def read(**fields):
    return moments({k: v for k, v in {**RECORD, **fields}.items() if v is not None})


def draw(record=RECORD, index=5, *, seed=3, epoch=0, **options):
    (prompt,) = draw_prompts([record], seed=seed, index=[index], epoch=[epoch], **options)
    return prompt


def test_a_picture_gets_a_frame_axis():
    made = read()
    assert made.shape == (8, 1, 2, 3) and made.dtype == np.float16
    assert np.array_equal(made[:, 0], MOMENTS)


def test_a_video_keeps_its_frames():
    assert np.array_equal(read(shape=[4, 2, 2, 3]), MOMENTS.reshape(4, 2, 2, 3))


def test_moments_are_a_view():
    buffer = bytearray(RECORD["moments"])
    made = read(moments=buffer)
    buffer[0:2] = np.float16(9).tobytes()
    assert made[0, 0, 0, 0] == 9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"moments": MOMENTS.astype("f4").tobytes()},
            "192 bytes.* takes 96: they look like float32",
        ),
        (
            {"moments": b"\0" * 94},
            r"'moments' has 94 bytes, float16 of shape \[8, 1, 2, 3\] takes 96$",
        ),
        ({"shape": [8, 6]}, r"shape \[8, 6\] is neither"),
        ({"shape": [8, 0, 3]}, r"shape \[8, 0, 3\] is neither"),
        ({"moments": None, "codes": b""}, r"'moments', the record has codes \(int32\)"),
        ({"moments": None}, r"the record has none; its fields: \['shape', 'caption', 'text'\]"),
    ],
)
def test_moments_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        read(**fields)


def test_the_short_caption_is_taken_half_of_the_time():
    drawn = [draw(index=index, epoch=epoch) for index in range(100) for epoch in range(20)]
    share = drawn.count("cat") / len(drawn)
    assert set(drawn) == {"cat", "A cat. It sits."}
    assert abs(share - 0.5) < 4 * 0.5 / len(drawn) ** 0.5


def test_the_choice_depends_on_seed_epoch_and_index_only():
    def drawn(seed):
        return [draw(seed=seed, index=i, epoch=e) for i in range(9) for e in range(9)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_the_choice_is_the_lot_of_the_sample():
    """A run that goes on with another version of the code draws what it would have drawn."""
    short = [index for index in range(40) if draw(index=index, epoch=2) == "cat"]
    assert short == [1, 3, 4, 6, 9, 12, 15, 17, 20, 21, 23, 24, 26, 27, 28, 32, 36, 37, 38]


@pytest.mark.parametrize(
    ("caption", "text", "long", "short"),
    [
        ("A cat. It sits.", "cat", "A cat. It sits.", "cat"),
        ("A cat. It sits.", "", "A cat. It sits.", "A cat."),
        ("A cat. It sits.", None, "A cat. It sits.", "A cat."),
        ("", "cat", "cat", "cat"),
        (None, "A cat. It sits.", "A cat. It sits.", "A cat. It sits."),
        ("", "", "", ""),
        (None, None, None, None),
    ],
)
def test_long_and_short(caption, text, long, short):
    record = {k: v for k, v in (("caption", caption), ("text", text)) if v is not None}
    assert choose_prompt(record, short=False) == long
    assert choose_prompt(record, short=True) == short


@pytest.mark.parametrize(
    ("caption", "sentence"),
    [
        ("One. Two.", "One."),
        ("Really?! Yes.", "Really?!"),
        ("No end", "No end"),
        ("Look! There", "Look!"),
        ("Size 1.5 m. Big.", "Size 1.5 m."),
        ("\u4e00\u53ea\u732b\u3002\u5b83\u5750\u7740\u3002", "\u4e00\u53ea\u732b\u3002"),
        (" Spaces. After", "Spaces."),
        ("Lines\ngo on. End", "Lines\ngo on."),
        ("...", "..."),
        (" ", ""),
    ],
)
def test_first_sentences(caption, sentence):
    assert first_sentence(caption) == sentence


def test_prompt_embeddings():
    long, short = np.ones((3, 4), "<f2"), np.full((2, 4), 2, "<f2")
    fields = {
        "caption": {"data": long.tobytes(), "shape": [3, 4]},
        "text": {"data": short.tobytes(), "shape": [2, 4]},
    }
    assert np.array_equal(choose_prompt(fields, short=False), long)
    assert np.array_equal(choose_prompt(fields, short=True), short)
    fields["text"] = {"data": b"", "shape": [0, 4]}
    assert np.array_equal(choose_prompt(fields, short=True), long)
    with pytest.raises(ValueError, match=r"'caption' has 4 bytes.*takes 24"):
        choose_prompt({"caption": {"data": b"abcd", "shape": [3, 4]}}, short=False)
    with pytest.raises(ValueError, match=r"'caption' has shape \[12\], wanted"):
        choose_prompt({"caption": {"data": long.tobytes(), "shape": [12]}}, short=False)


def test_an_embedding_does_not_hold_the_record():
    data = bytearray(np.ones((3, 4), "<f2").tobytes())
    prompt = choose_prompt({"caption": {"data": data, "shape": [3, 4]}}, short=False)
    data[:] = bytes(len(data))
    assert prompt.min() == 1


def test_the_share_of_short_captions_is_an_option():
    record = {**RECORD, "caption": "A long one.", "text": "short"}

    def share(probability):
        prompts = [draw(record, i, short_caption=probability) for i in range(2000)]
        return prompts.count("short") / len(prompts)

    assert share(0.0) == 0.0
    assert share(1.0) == 1.0
    assert abs(share(0.2) - 0.2) < 0.03  # three standard deviations


def test_each_of_several_captions_is_drawn_as_often():
    record = {
        **RECORD,
        "caption": "One. First.",
        "captions": ["One. First.", "Two. More.", "Three."],
    }
    drawn = [
        draw({**record, "text": text}, seed=7, index=index, epoch=epoch)
        for text in ("", "cat")
        for index in range(150)
        for epoch in range(10)
    ]
    without, beside = drawn[:1500], drawn[1500:]
    assert set(without) == {"One. First.", "One.", "Two. More.", "Two.", "Three."}
    for word, share in (("One", 1 / 3), ("Two", 1 / 3), ("Three", 1 / 3)):
        found = sum(prompt.startswith(word) for prompt in without) / 1500
        assert abs(found - share) < 4 * (share * (1 - share) / 1500) ** 0.5
    assert set(beside) == {"One. First.", "Two. More.", "Three.", "cat"}
    assert abs(beside.count("cat") / 1500 - 0.5) < 4 * 0.5 / 1500**0.5
    assert draw(record, seed=7, index=3, epoch=1) == draw(record, seed=7, index=3, epoch=1)


def test_a_batch_draws_what_its_samples_draw():
    records = [RECORD, {**RECORD, "captions": ["One.", "Two.", "Three."]}] * 6
    index, epoch = list(range(12)), [0, 1, 2] * 4
    drawn = list(draw_prompts(records, seed=3, index=index, epoch=epoch))
    assert drawn == [draw(*pair, epoch=e) for *pair, e in zip(records, index, epoch, strict=True)]
    assert len(set(drawn)) > 3


def test_embeddings_of_several_captions_are_drawn_as_their_texts_are():
    """Of a list of embeddings the first is left out, as it is that of `caption`."""
    texts = ["One.", "Two.", "Three."]
    embeddings = {
        text: {"data": np.full((1, 4), n + 1, "<f2").tobytes(), "shape": [1, 4]}
        for n, text in enumerate([*texts, "cat"])
    }
    record = {"caption": texts[0], "text": "cat", "captions": texts}
    embedded = {
        "caption": embeddings[texts[0]],
        "text": embeddings["cat"],
        "captions": [embeddings[text] for text in texts[1:]],
    }
    seen = set()
    for index in range(60):
        text = draw(record, seed=1, index=index, epoch=2)
        found = draw(embedded, seed=1, index=index, epoch=2)
        assert found.tobytes() == embeddings[text]["data"]
        seen.add(text)
    assert seen == {*texts, "cat"}


def test_one_caption_in_a_list_is_the_caption():
    record = {**RECORD, "captions": [RECORD["caption"]]}
    for epoch in range(20):
        options = {"seed": 1, "index": 2, "epoch": epoch}
        assert draw(record, **options) == draw(RECORD, **options)
