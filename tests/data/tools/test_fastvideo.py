# SPDX-License-Identifier: Apache-2.0
"""FastVideo's parquet files: rows as it writes them, and columns as it reads them."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from diffnext.cli import main
from diffnext.data.prompt_cache import EMBEDDING
from diffnext.data.records import read_identity
from diffnext.data.tools.exchange import import_cache
from tests.data.tools.small import equal, records, there_and_back, write_records

RNG = np.random.default_rng(0)


def fastvideo_row(number, dtype="float32", **changes):
    """A row of the schema of text to video."""
    latent = RNG.normal(size=(4, 2, 3, 5)).astype(np.float32)
    prompt = RNG.normal(size=(3, 6)).astype(np.float32)
    tensors = {"vae_latent": latent, "text_embedding": prompt}
    row = {"id": f"clip{number}", "file_name": f"{number}.mp4", "caption": f"Clip {number}."}
    for name, values in tensors.items():
        if dtype == "bfloat16":
            stored = torch.from_numpy(values).to(torch.bfloat16)
            tensors[name] = stored.float().numpy()
            data = stored.view(torch.int16).numpy().tobytes()
        else:
            tensors[name] = values.astype(dtype)
            data = tensors[name].tobytes()
        row |= {f"{name}_bytes": data, f"{name}_shape": list(values.shape), f"{name}_dtype": dtype}
    row |= {"media_type": "video", "width": 40, "height": 24, "num_frames": 5}
    return row | {"duration_sec": 0.2, "fps": 24.0} | changes, tensors


def write_fastvideo(folder, rows):
    (folder / "worker_0").mkdir(parents=True)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), folder / "worker_0" / "data_chunk_0.parquet"
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_fastvideo_types_are_what_the_rows_say(tmp_path, dtype):
    rows, tensors = zip(*(fastvideo_row(n, dtype) for n in range(3)), strict=True)
    write_fastvideo(tmp_path / "f", rows)
    assert import_cache("fastvideo", str(tmp_path / "f"), str(tmp_path / "c")) == 3
    for number, record in enumerate(records(tmp_path / "c")):
        assert record["caption"] == f"Clip {number}."
        mean, logvar = record["moments"].reshape(2, 4, 2, 3, 5)
        np.testing.assert_array_equal(mean, tensors[number]["vae_latent"].astype(np.float16))
        assert (logvar == -30).all()
    identity = read_identity(tmp_path / "c")
    assert identity["imported"]["unknown"] == ["vae", "strides", "normalisation", "rules"]


def test_fastvideo_embeddings_there_and_back(tmp_path):
    rows, tensors = zip(*(fastvideo_row(n) for n in range(3)), strict=True)
    write_fastvideo(tmp_path / "f", rows)
    words = ["import", tmp_path / "f", "--from", "fastvideo", "--output", tmp_path / "c"]
    assert main(["cache", *map(str, words), "--embeddings"]) == 0
    found = records(tmp_path / "c")
    for record, wanted in zip(found, tensors, strict=True):
        assert record["caption"]["shape"] == [3, 6]
        values = np.frombuffer(record["caption"]["data"], np.float16).reshape(3, 6)
        np.testing.assert_array_equal(values, wanted["text_embedding"].astype(np.float16))
    assert equal(
        there_and_back(tmp_path / "c", tmp_path / "x", "fastvideo", embeddings=True), found
    )
    table = pyarrow.parquet.read_table(tmp_path / "x" / "fastvideo" / "worker_0")
    assert set(table.column("vae_latent_dtype").to_pylist()) == {"float32"}
    assert table.column("vae_latent_shape").to_pylist() == [[4, 2, 3, 5]] * 3


def test_fastvideo_is_told_the_texts_of_embeddings(tmp_path):
    prompt = {"data": np.ones((2, 3), np.float16).tobytes(), "shape": [2, 3]}
    fields = {"shape": ["int64"], "moments": "bytes", "words": ["string"], "caption": EMBEDDING}
    rows = [{"moments": RNG.normal(size=(8, 3, 5)), "words": ["A cat.", ""], "caption": prompt}]
    path = write_records(tmp_path / "c", rows, fields)
    [texts] = there_and_back(path, tmp_path, "fastvideo", means=True)
    assert texts["caption"] == "A cat."


# What FastVideo's schema of text to video names; it passes over other columns.
LIST = "list<element: int64>"
T2V = {
    "id": "string",
    "vae_latent_bytes": "binary",
    "vae_latent_shape": LIST,
    "vae_latent_dtype": "string",
    "text_embedding_bytes": "binary",
    "text_embedding_shape": LIST,
    "text_embedding_dtype": "string",
    "file_name": "string",
    "caption": "string",
    "media_type": "string",
    "width": "int64",
    "height": "int64",
    "num_frames": "int64",
    "duration_sec": "double",
    "fps": "double",
}


def test_fastvideo_keeps_the_order_over_many_files(cache, tmp_path, monkeypatch):
    for name in ("FILE_ROWS", "GROUP_ROWS"):
        monkeypatch.setattr(f"diffnext.data.tools.exchange.fastvideo.{name}", 1)
    rows = [{"moments": np.full((2, 1, 1), n), "caption": f"{n}"} for n in range(12)]
    path = write_records(tmp_path / "c", rows)
    found = there_and_back(path, tmp_path, "fastvideo", means=True)
    assert [record["caption"] for record in found] == [f"{n}" for n in range(12)]


def test_fastvideo_from_a_build(cache, tmp_path):
    found = there_and_back(cache, tmp_path, "fastvideo", means=True)
    wanted = records(cache)
    assert [r["caption"] for r in found] == [r["caption"] for r in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        half = len(ours["moments"]) // 2
        np.testing.assert_array_equal(ours["moments"][:half], theirs["moments"][:half])
    table = pyarrow.parquet.read_table(tmp_path / "fastvideo" / "worker_0")
    assert {name: str(table.schema.field(name).type) for name in T2V} == T2V
    assert table.column("width").to_pylist() == [48] * 7
    assert table.column("file_name").to_pylist()[3].endswith("p3.png")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae_latent_dtype": "int8"}, "row 1: vae_latent is of type 'int8'"),
        ({"vae_latent_shape": [4, 2, 3, 6]}, "row 1: vae_latent has 480 bytes"),
        ({"caption": None}, r"row 1 has the fields \[\]"),
    ],
)
def test_fastvideo_rows_that_are_wrong(tmp_path, changes, message):
    rows = [fastvideo_row(0)[0], fastvideo_row(1, **changes)[0]]
    write_fastvideo(tmp_path / "f", rows)
    with pytest.raises(ValueError, match=message):
        import_cache("fastvideo", str(tmp_path / "f"), str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
