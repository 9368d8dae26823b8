# SPDX-License-Identifier: Apache-2.0
"""What differs between two caches, against what was made different."""

import json
import re

import numpy as np
import pytest

from diffnext.cli import main
from diffnext.data.tools.algebra import filter_cache, merge_caches
from diffnext.data.tools.compare import match
from tests.data.cache_builds import encode, run, write_photos, write_picture
from tests.data.tools.small import copy, records, write_records


def diff(a, b, capsys, *options, code=0):
    assert main(["cache", "diff", str(a), str(b), "--json", *options]) == code
    return json.loads(capsys.readouterr().out)


def test_a_cache_and_its_copy(cache, tmp_path, capsys):
    found = diff(cache, copy(cache, tmp_path / "c"), capsys)
    assert found["matched"] == found["drift"]["equal"] == 7
    assert found["identity"] == found["only_a"] == found["only_b"] == []
    assert found["drift"]["mean"] == {"max_abs": 0.0, "mean_abs": 0.0, "rms": 0.0}


def test_order_and_absence(cache, tmp_path, capsys):
    for name, where in {"a": "record<3", "b": "record>=5"}.items():
        filter_cache(str(cache), str(tmp_path / name), [where])
    merge_caches([str(tmp_path / "b"), str(tmp_path / "a")], str(tmp_path / "c"))
    found = diff(cache, tmp_path / "c", capsys, code=1)
    assert (found["matched"], found["only_a"], found["only_b"]) == (5, [3, 4], [])
    assert found["drift"]["equal"] == 5
    assert diff(tmp_path / "c", cache, capsys, code=1)["only_b"] == [3, 4]


def test_drift_of_another_encoder(photos, cache, tmp_path, capsys):
    """A known change of every latent: the statistics are those of that change."""

    def other(frames):
        moments = encode(frames).astype(np.float32)
        moments[:, :4] += 0.5
        moments[:, 1] += 1.5  # the second channel by 2 in all
        return moments.astype(np.float16)

    run(photos, tmp_path / "c", encoder=other, vae={"class": "Other"})
    found = diff(cache, tmp_path / "c", capsys, code=1)
    assert found["identity"] == ["vae.class: A has 'Stub', B 'Other'"]
    mean = found["drift"]["mean"]
    step = 2**-3  # float16 holds values between 128 and 255 to an eighth
    assert mean["max_abs"] == pytest.approx(2.0, abs=step)
    assert mean["mean_abs"] == pytest.approx((3 * 0.5 + 2) / 4, abs=step / 2)
    assert found["drift"]["logvar"]["max_abs"] == 0
    moved = np.subtract(found["drift"]["of_b"]["mean"], found["drift"]["of_a"]["mean"])
    np.testing.assert_allclose(moved, [0.5, 2, 0.5, 0.5], atol=step / 2)
    flat = np.stack([record["moments"].reshape(8, -1) for record in records(cache)], 1)
    std = flat.reshape(8, -1)[:4].astype(np.float64).std(1)
    np.testing.assert_allclose(found["drift"]["of_a"]["std"], std, rtol=1e-5)
    diff(cache, tmp_path / "c", capsys, "--tolerance", "2.2")
    assert main(["cache", "diff", str(cache), str(tmp_path / "c")]) == 1
    shown = capsys.readouterr().out
    assert "identity: vae.class" in shown
    assert re.search(r"furthest apart: \d \(.*p\d\.png\) of A and", shown)
    assert shown.splitlines()[-1].startswith("different: moments up to 2")


def test_edited_media_are_told_from_others(tmp_path, capsys):
    folder = write_photos(tmp_path / "photos")
    run(folder, tmp_path / "a")
    write_picture(folder, "p2", 50)
    (folder / "p4.txt").write_text("Other words.")
    (folder / "p5.png").unlink()
    run(folder, tmp_path / "b")
    found = diff(tmp_path / "a", tmp_path / "b", capsys, code=1)
    assert (found["matched"], found["only_a"], found["edited"]) == (4, [2, 4, 5], 2)
    assert len(found["only_b"]) == 2
    assert main(["cache", "diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    shown = capsys.readouterr().out
    assert f"3 only in A: 2 ({folder}/p2.png), 4 ({folder}/p4.png), 5 ({folder}/p5.png)" in shown
    assert shown.endswith("different: 5 records that only one has\n")


def test_without_journals_by_number(tmp_path, capsys):
    rows = [{"moments": np.full((2, 2, 2), n), "label": n} for n in range(4)]
    a = write_records(tmp_path / "a", rows)
    rows[2] = {"moments": np.full((2, 2, 2), 2.25), "label": 9}
    b = write_records(tmp_path / "b", rows)
    found = diff(a, b, capsys, code=1)
    assert (found["matched_by"], found["drift"]["equal"]) == ("number", 3)
    assert found["drift"]["other_fields"] == 1
    assert found["drift"]["worst"][0] == {"rms": 0.25, "record_a": 2, "record_b": 2}
    rows[2] = {"moments": np.full((2, 2, 2), 2), "label": 9}
    found = diff(a, write_records(tmp_path / "d", rows), capsys, code=1)  # by its label alone
    assert found["drift"]["mean"]["max_abs"] == 0
    c = write_records(tmp_path / "c", rows[:3])
    assert main(["cache", "diff", str(a), str(c)]) == 2
    assert "4 records" in capsys.readouterr().err


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_moments_that_are_no_numbers_are_not_the_same(odd, tmp_path, capsys):
    rows = [{"moments": np.full((2, 2, 2), n), "label": 0} for n in (1, 2)]
    rows[1]["moments"] = np.full((2, 2, 2), odd)
    a = write_records(tmp_path / "a", rows)
    assert diff(a, copy(a, tmp_path / "same"), capsys)["drift"]["equal"] == 2
    rows[0]["moments"] = rows[1]["moments"]
    b = write_records(tmp_path / "b", rows)
    found = diff(a, b, capsys, code=1)["drift"]
    assert (found["not_finite"], found["mean"]["max_abs"]) == (1, 0)
    assert main(["cache", "diff", str(a), str(b)]) == 1
    assert capsys.readouterr().out.endswith(
        "different: 1 pairs with NaN or infinite moments in one, and others in the other\n"
    )


def test_matching_against_counting():
    rng = np.random.default_rng(0)
    for _ in range(50):
        keys = [rng.integers(0, 5, rng.integers(0, 9)) for _ in range(2)]
        texts = [np.array([b"%016d" % key for key in part], "S16") for part in keys]
        rows, others, only, only_other = match(*texts)
        assert [keys[0][row] for row in rows] == [keys[1][row] for row in others]
        assert sorted([*rows, *only]) == list(range(len(keys[0])))
        assert sorted([*others, *only_other]) == list(range(len(keys[1])))
        assert not {*keys[0][only]} & {*keys[1][only_other]}
        assert list(rows) == sorted(rows)
