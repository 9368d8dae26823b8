# SPDX-License-Identifier: Apache-2.0
"""What `cache info` says of a cache, against numpy over the same records."""

import json

import numpy as np
import pytest

from diffnext.cli import main
from diffnext.data.records import read_identity
from tests.data.tools.small import copy, records, write_records


def info(path, capsys, *options):
    assert main(["cache", "info", str(path), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_a_built_cache_holds(cache, capsys):
    found = info(cache, capsys)
    assert found["records"] == found["checked"] == 7
    assert found["finished"] and found["journal"] and found["failures"] == 0
    assert found["shapes"] == [{"shape": [8, 4, 6], "records": 7}]
    assert found["record_bytes"] == (cache / "00000.data").stat().st_size
    assert found["disk_bytes"] == sum(file.stat().st_size for file in cache.iterdir())
    assert found["identity"] == read_identity(cache)


def test_mean_and_spread_of_latents(tmp_path, capsys):
    """Against samples of the posterior drawn by the million, and plain numpy."""
    rng = np.random.default_rng(0)
    shapes = [(4, 5, 6), (4, 7, 3), (4, 5, 6)]
    moments = [rng.normal(3, 2, shape) for shape in shapes]
    for values in moments:
        values[2:] = np.log([[[0.25]], [[4.0]]])
    path = write_records(tmp_path / "c", [{"moments": m, "caption": "x"} for m in moments])
    found = info(path, capsys, "--sample", "-1")["latents"]
    flat = [m.astype(np.float16).astype(np.float64).reshape(4, -1) for m in moments]
    mean = np.concatenate(flat, 1)[:2]
    np.testing.assert_allclose(found["mean"], mean.mean(1), rtol=1e-6)
    std = np.sqrt(mean.var(1) + np.array([0.25, 4.0]))
    np.testing.assert_allclose(found["std"], std, rtol=2e-3)  # float16 of a logarithm
    draws = mean[:, :, None] + np.sqrt([0.25, 4.0])[:, None, None] * rng.normal(size=(2, 81, 5000))
    np.testing.assert_allclose(found["std"], draws.std(axis=(1, 2)), rtol=1e-2)


def test_one_log_variance_may_be_that_of_all_channels(tmp_path, capsys):
    shared = np.random.default_rng(0).normal(size=(3, 5, 6))
    found = []
    for name, moments in (("shared", shared), ("whole", shared[[0, 1, 2, 2]])):
        path = write_records(tmp_path / name, [{"moments": moments, "caption": "x"}])
        found.append(info(path, capsys, "--sample", "-1")["latents"])
    assert found[0] == found[1]


@pytest.mark.parametrize("sample", [1, 2, 5])
def test_a_sample_is_spread_over_the_cache(tmp_path, capsys, sample):
    rows = [{"moments": np.full((2, 1, 1), float(n)), "caption": "x"} for n in range(9)]
    path = write_records(tmp_path / "c", rows)
    found = info(path, capsys, "--sample", str(sample))["latents"]
    assert found["records"] == sample
    assert found["mean"] == [0.0 if sample == 1 else 4.0]


def test_bad_values_are_counted_and_left_out(cache, tmp_path, capsys):
    rows = records(cache)[:3]
    for row in rows:
        row["moments"] = row["moments"].reshape(row.pop("shape"))
    rows[1]["moments"][0, 0, 0] = np.nan
    found = info(write_records(tmp_path / "c", rows), capsys)["latents"]
    assert (found["records"], found["not_finite"]) == (2, 1)
    assert np.isfinite(found["mean"] + found["std"]).all()


def test_text_for_people(cache, tmp_path, capsys):
    assert main(["cache", "info", str(cache)]) == 0
    shown = capsys.readouterr().out
    assert f"{cache}: 7 records" in shown and "version: 2" in shown
    assert shown.splitlines()[2].split() == ["8x4x6", "32x48", "px", "7"]
    assert "fields: shape (list of int64), moments (bytes), caption (string)" in shown
    broken = copy(cache, tmp_path / "c")
    (broken / "METADATA").unlink()
    (broken / "diffnext.json").unlink()
    assert main(["cache", "info", str(broken)]) == 0
    shown = capsys.readouterr().out
    assert "not finished" in shown and "no identity" in shown


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_what_is_no_cache(tmp_path, path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["cache", "info", str(tmp_path / path)]) == 2
    assert path in capsys.readouterr().err
