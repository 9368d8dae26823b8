# SPDX-License-Identifier: Apache-2.0
"""Records with embedded prompts are mended by the encoders that made them."""

import shutil

from diffnext import cli
from diffnext.data.records import open_reader
from diffnext.pipelines.nova import prompt_encoder
from tests.cli.embedding import LENGTH, build, files_of, flip_in


def mend(cache, model, *options, code=0):
    command = ["cache", "verify", str(cache), "--repair", "--vae", str(model), *options]
    assert cli.main([*command, "--device", "cpu"]) == code


def test_damaged_records_are_made_again_as_they_were(photos, model, tmp_path, asked, alive):
    """Moments and embeddings; the text encoder is gone when the autoencoder is loaded."""
    cache = tmp_path / "cache"
    build(photos, cache, model, "--encode-prompts")
    asked.clear()
    reader, whole = open_reader(cache), files_of(cache)
    flip_in(cache, 0, bytes(reader[0]["caption"]["data"]))
    flip_in(cache, 2, bytes(reader[2]["moments"]))
    mend(cache, model)
    assert alive == [False, False] and asked == [["A cat. It sits.", "A cat."]]
    assert files_of(cache) == whole and cli.main(["cache", "verify", str(cache)]) == 0


def test_what_is_whole_of_a_damaged_record_is_kept(photos, model, tmp_path, capsys, monkeypatch):
    cache, call = tmp_path / "cache", prompt_encoder.PromptEncoder.__call__
    build(photos, cache, model, "--encode-prompts")
    record, whole = open_reader(cache)[3], files_of(cache)
    flip_in(cache, 3, b"birds on a mat")  # the text of the embedding, which nothing else says
    mend(cache, model, code=1)
    reason = f"record 3 cannot be encoded again: {photos / 'd.png'}: its captions"
    assert reason in capsys.readouterr().out
    mend(cache, model, "--input", str(photos))
    assert files_of(cache) == whole

    def drift(self, texts):
        return [1.01 * states for states in call(self, texts)]

    monkeypatch.setattr(prompt_encoder.PromptEncoder, "__call__", drift)
    flip_in(cache, 3, bytes(record["moments"]))
    mend(cache, model)
    assert files_of(cache) == whole
    flip_in(cache, 3, b"words")  # the name of a field, without which nothing can be read
    mend(cache, model, code=1)
    mend(cache, model, "--input", str(photos))
    assert files_of(cache) == whole
    flip_in(cache, 3, bytes(record["caption"]["data"]))
    mend(cache, model)
    assert "00000.data" not in files_of(cache)
    assert cli.main(["cache", "verify", str(cache)]) == 0


def test_another_text_encoder_does_not_make_records_again(photos, model, tmp_path, capsys):
    build(photos, tmp_path / "cache", model, "--encode-prompts", "--text-dtype", "bf16")
    flip_in(tmp_path / "cache", 0, b"A cat. It sits.")
    other = shutil.copytree(model, tmp_path / "other")
    config = other / "transformer" / "config.json"
    config.write_text(config.read_text().replace(str(LENGTH), "9"))
    mend(tmp_path / "cache", model, "--text-model", str(other), code=2)
    assert "  max_length: the cache has 12, --text-model 9" in capsys.readouterr().err
