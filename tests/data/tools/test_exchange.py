# SPDX-License-Identifier: Apache-2.0
"""Layouts of other software: samples written by hand as they document them, and there and back again."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffnext.cli import main
from diffnext.cli.common import LAYOUTS
from diffnext.data.prompt_cache import TYPES
from diffnext.data.records import open_reader, read_identity
from diffnext.data.tools import exchange
from diffnext.data.tools.algebra import filter_cache
from diffnext.data.tools.exchange import Options, export_cache, import_cache
from diffnext.data.tools.verify import check
from diffnext.data.view_rules import ViewRules
from tests.data.cache_builds import run
from tests.data.tools.small import equal, records, there_and_back, write_records

TAGS = {"label": "int64", "flip": "int64"}
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(4, 2, 8, 3, 5)).astype(np.float32)  # samples, twins, (2C, H, W)


def test_names_on_the_command_line():
    assert exchange.LAYOUTS == LAYOUTS


# ------------------------------------------------------------------------------------------- MAR


def write_mar(folder):
    """As main_cache.py of MAR: np.savez of float32 moments and moments_flip, by class."""
    for number, (moments, flip) in enumerate(NORMAL):
        place = folder / ["n01440764", "n01443537"][number % 2]
        place.mkdir(parents=True, exist_ok=True)
        np.savez(place / f"{place.name}_{number}.JPEG.npz", moments=moments, moments_flip=flip)


def test_mar(tmp_path, capsys):
    write_mar(tmp_path / "mar")
    words = ["import", str(tmp_path / "mar"), "--from", "mar", "--output", str(tmp_path / "c")]
    assert main(["cache", *words]) == 0
    assert "not known of them: vae, strides, rules" in capsys.readouterr().out
    found = records(tmp_path / "c")
    wanted = [NORMAL[number] for number in (0, 2, 1, 3)]
    assert [(r["label"], r["flip"]) for r in found] == [
        (c, f) for c in (0, 0, 1, 1) for f in (0, 1)
    ]
    for record, moments in zip(found, np.concatenate(wanted), strict=True):
        assert record["shape"] == [8, 3, 5]
        assert np.array_equal(record["moments"], moments.astype(np.float16).ravel())
    identity = read_identity(tmp_path / "c")
    assert identity["normalisation"] == "raw" and identity["fields"] == ["label", "flip"]
    assert identity["imported"]["classes"] == {"n01440764": 0, "n01443537": 1}
    assert check(str(tmp_path / "c")).problems == []
    import_cache("mar", str(tmp_path / "mar"), str(tmp_path / "d"), options=Options(flips=False))
    assert equal(records(tmp_path / "d"), [drop(record, "flip") for record in found[::2]])


def drop(record, name):
    return {key: value for key, value in record.items() if key != name}


def test_mar_there_and_back(tmp_path):
    write_mar(tmp_path / "mar")
    import_cache("mar", str(tmp_path / "mar"), str(tmp_path / "c"))
    again = there_and_back(tmp_path / "c", tmp_path / "x", "mar")
    assert equal(again, records(tmp_path / "c"))
    with np.load(tmp_path / "x" / "mar" / "00001" / "000000004.npz") as file:
        assert sorted(file) == ["moments", "moments_flip"]
        assert file["moments"].dtype == np.float32
        np.testing.assert_array_equal(file["moments_flip"].astype("f2"), NORMAL[1][1].astype("f2"))


def test_mirrored_records_of_a_build_become_twins(photos, tmp_path):
    run(photos, tmp_path / "c", rules=ViewRules(sizes=(((32, 48),), ((32, 32),)), flip=True))
    export_cache(str(tmp_path / "c"), "mar", str(tmp_path / "mar"))
    files = sorted((tmp_path / "mar").glob("*.npz"))
    assert len(files) == 14
    assert all("moments_flip" in np.load(file) for file in files)
    filter_cache(str(tmp_path / "c"), str(tmp_path / "flips"), ["flip=1"])
    with pytest.raises(ValueError, match="follows no twin"):
        export_cache(str(tmp_path / "flips"), "mar", str(tmp_path / "none"))
    found = {name: np.load(files[0])[name] for name in ("moments", "moments_flip", "caption")}
    wanted = records(tmp_path / "c")[:2]
    assert str(found["caption"]) == wanted[0]["caption"] == wanted[1]["caption"]
    np.testing.assert_array_equal(found["moments_flip"].ravel(), wanted[1]["moments"])
    assert not np.array_equal(found["moments"], found["moments_flip"])


# ---------------------------------------------------------------------------------- LightningDiT


def write_lightningdit(folder, dtype=torch.float32):
    """As its extract_features.py: tensors latents, latents_flip (N, C, H, W) and labels (N,)."""
    folder.mkdir()
    latents = torch.from_numpy(NORMAL).to(dtype)
    for number in range(2):
        part = latents[2 * number : 2 * number + 2]
        tensors = {"latents": part[:, 0], "latents_flip": part[:, 1]}
        tensors["labels"] = torch.tensor([7, number])
        named = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, folder / f"latents_rank00_shard{number:03d}.safetensors")
    return latents


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lightningdit(tmp_path, dtype):
    latents = write_lightningdit(tmp_path / "l", dtype)
    assert import_cache("lightningdit", str(tmp_path / "l"), str(tmp_path / "c")) == 8
    found = records(tmp_path / "c")
    assert [record["label"] for record in found] == [7, 7, 0, 0, 7, 7, 1, 1]
    for record, latent in zip(found, latents.flatten(0, 1), strict=True):
        mean, logvar = record["moments"].reshape(2, 8, 3, 5)
        np.testing.assert_array_equal(mean, latent.to(torch.float16).numpy())
        assert (logvar == -30).all()
    assert "a point" in read_identity(tmp_path / "c")["posterior"]
    again = there_and_back(tmp_path / "c", tmp_path / "x", "lightningdit")
    assert equal(again, found)
    [shard] = (tmp_path / "x" / "lightningdit").glob("*.safetensors")
    assert load_file(shard)["latents"].shape == (4, 8, 3, 5)


def test_lightningdit_holds_no_variances(tmp_path):
    rows = [{"moments": moments, "label": 1} for moments in NORMAL[:, 0]]
    path = write_records(tmp_path / "c", rows)
    with pytest.raises(ValueError, match="--means writes the means alone"):
        export_cache(str(path), "lightningdit", str(tmp_path / "l"))
    assert not (tmp_path / "l").exists()
    _, remarks = export_cache(
        str(path), "lightningdit", str(tmp_path / "l"), options=Options(means=True)
    )
    assert "no latents_flip" in remarks[0]
    [shard] = (tmp_path / "l").glob("*.safetensors")
    wanted = NORMAL[:, 0, :4].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(load_file(shard)["latents"].numpy(), wanted)


def test_lightningdit_is_told_of_frames(tmp_path):
    rows = [{"moments": np.zeros((8, 2, 3, 5)), "label": 1, "flip": flip} for flip in (0, 1)]
    path = write_records(tmp_path / "c", rows, {"shape": ["int64"], "moments": "bytes"} | TAGS)
    count, remarks = export_cache(
        str(path), "lightningdit", str(tmp_path / "l"), options=Options(means=True)
    )
    assert count == 2 and len(remarks) == 1 and "takes (N, C, H, W) alone" in remarks[0]


def test_lightningdit_tokens_are_refused(tmp_path):
    tensors = {"latents": torch.zeros(2, 256, 16), "labels": torch.zeros(2, dtype=torch.int64)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="tokens without height and width"):
        import_cache("lightningdit", str(tmp_path), str(tmp_path / "c"))


# ------------------------------------------------------------------------------------ webdataset


def write_tar(path, members):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def npy(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz"])
def test_webdataset(tmp_path, name):
    (tmp_path / "w").mkdir()
    members = {}
    for number in range(3):
        members |= {
            f"a/{number}{'.moments' * (number == 1)}.npy": npy(NORMAL[number, 0]),
            f"a/{number}.txt": f"Words {number}.\n".encode(),
            f"a/{number}.cls": str(number).encode(),
            f"a/{number}.json": json.dumps({"flow": number / 2, "url": "x"}).encode(),
            f"a/{number}.jpg": b"passed over",
        }
    write_tar(tmp_path / "w" / name, members)
    assert import_cache("webdataset", str(tmp_path / "w"), str(tmp_path / "c")) == 3
    for number, record in enumerate(records(tmp_path / "c")):
        fields = {name: record[name] for name in ("caption", "label", "flow")}
        assert fields == {"caption": f"Words {number}.", "label": number, "flow": number / 2}
        assert np.array_equal(record["moments"], NORMAL[number, 0].astype(np.float16).ravel())
    write_tar(tmp_path / "none.tar", {"0.latent.pth": b"x", "0.txt": b"A cat."})
    with pytest.raises(ValueError, match=r"holds no .* of moments, only \['\.latent\.pth'\]"):
        import_cache("webdataset", str(tmp_path / "none.tar"), str(tmp_path / "d"))
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("b.npy")
        link.type, link.linkname = tarfile.LNKTYPE, "a/0.npy"
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"link\.tar: b\.npy is a link to a/0\.npy; write the tar"):
        import_cache("webdataset", str(tmp_path / "link.tar"), str(tmp_path / "d"))


@pytest.mark.parametrize("layout", ["webdataset", "mar"])
def test_a_build_there_and_back(cache, tmp_path, layout):
    assert equal(there_and_back(cache, tmp_path, layout), records(cache))
    identity = read_identity(tmp_path / f"from_{layout}")
    lineage = identity.pop("lineage")
    assert identity == read_identity(cache)
    assert lineage["of"][0]["lineage"]["of"] == [{"path": str(cache), "records": 7}]


@pytest.mark.parametrize("layout", ["webdataset", "mar"])
def test_every_field_there_and_back(tmp_path, layout):
    prompt = RNG.normal(size=(3, 4)).astype(np.float16)
    fields = {"shape": ["int64"], "moments": "bytes", "text": "string", "label": "int64"}
    fields |= {"caption": {"data": "bytes", "shape": ["int64"]}, "captions": ["string"]}
    rows = [
        {
            "moments": RNG.normal(size=(8, 2, 3, 5)),
            "caption": {"data": prompt.tobytes(), "shape": [3, 4]},
            "captions": ["one", "two"][: number + 1],
            "text": "" if number else "\u00e9 short",
            "label": 2**40 + number,
        }
        for number in range(2)
    ]
    path = write_records(tmp_path / "c", rows, fields)
    assert equal(there_and_back(path, tmp_path, layout), records(path))


@pytest.mark.parametrize("layout", ["webdataset", "mar"])
def test_lists_of_embeddings_there_and_back(tmp_path, layout, capsys):
    """As --encode-prompts stores them; the first sample has one caption alone, the second a dozen."""

    def prompt(length):
        values = RNG.normal(size=(length, 4)).astype(np.float16)
        return {"data": values.tobytes(), "shape": [length, 4]}

    rows = [
        {
            "moments": RNG.normal(size=(8, 3, 5)),
            "caption": prompt(3),
            "captions": more,
            "text": prompt(0),
            "words": ["A.", "", *map(str, range(len(more)))],
        }
        for more in ([], [prompt(length) for length in range(12)])
    ]
    fields = {"shape": ["int64"], "moments": "bytes", "words": ["string"], **TYPES}
    path = write_records(tmp_path / "c", rows, fields)
    assert equal(there_and_back(path, tmp_path, layout), records(path))
    assert main(["cache", "info", str(path)]) == 0
    assert "text (embedding), captions (list of embedding)" in capsys.readouterr().out


# ----------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"latent": NORMAL[0, 0]}, "no array 'moments'"),
        ({"moments": NORMAL[0, 0, :7]}, "an array of shape"),
        ({"moments": NORMAL[0, 0].astype(int)}, "int64 numbers"),
        ({"moments": NORMAL[0, 0] * 1e6}, "beyond the range of float16"),
        ({"moments": NORMAL[0, 0] * np.nan}, "NaN"),
        ({"moments": NORMAL[0, 0], "x": np.zeros((2, 2, 2))}, "'x' is float64"),
        (b"PK no zip", "cannot be read"),
    ],
)
def test_samples_that_no_record_can_represent(tmp_path, arrays, message):
    (tmp_path / "m").mkdir()
    np.savez(tmp_path / "m" / "0.npz", moments=NORMAL[0, 0])
    if isinstance(arrays, bytes):
        (tmp_path / "m" / "1.npz").write_bytes(arrays)
    else:
        np.savez(tmp_path / "m" / "1.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        import_cache("mar", str(tmp_path / "m"), str(tmp_path / "c"))
    assert "1.npz" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_there(tmp_path, layout):
    (tmp_path / "e").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        import_cache(layout, str(tmp_path / "e"), str(tmp_path / "c"))
    with pytest.raises(FileNotFoundError):
        import_cache(layout, str(tmp_path / "nowhere"), str(tmp_path / "c"))


def test_an_imported_cache_trains(tmp_path):
    """The reader of training takes its moments."""
    write_mar(tmp_path / "mar")
    import_cache("mar", str(tmp_path / "mar"), str(tmp_path / "c"))
    reader = open_reader(tmp_path / "c")
    out = np.empty((2, 8, 3, 5), np.float16)
    views = [memoryview(part).cast("B") for part in out]
    [first, _] = reader.read_into([3, 0], "moments", views)
    assert first["label"] == 0
    np.testing.assert_array_equal(out, [NORMAL[2][1].astype("f2"), NORMAL[0][0].astype("f2")])
