# SPDX-License-Identifier: Apache-2.0
"""Records of other caches, copied as they are: which, with what beside them, and what stops it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffnext.cli import main
from diffnext.data.journal import JOURNAL, Journal
from diffnext.data.records import open_reader, read_identity, write_identity
from diffnext.data.tools.algebra import filter_cache, merge_caches, split_cache
from diffnext.data.tools.verify import check
from diffnext.data.view_rules import ViewRules
from tests.data.cache_builds import plan_for, run, write_picture
from tests.data.tools.small import copy, equal, flip_byte, records, write_records

ROOT = Path(__file__).parents[3]


def entries(path):
    return Journal(path, len(open_reader(path))).entries


def raw(path):
    """Bytes and checksum of all records."""
    reader = open_reader(path)
    return [reader.raw(row) for row in range(len(reader))]


def names(path):
    return [entry.path[-6:] for entry in entries(path)]


def test_filter_copies_bytes_checksums_and_lines(cache, tmp_path, capsys):
    output = tmp_path / "some"
    command = ["cache", "filter", str(cache), "--where", "source=*p[1345].png"]
    assert main([*command, "--where", "caption!~p3", "--output", str(output)]) == 0
    assert "3 of 7 records" in capsys.readouterr().out
    kept = [1, 4, 5]
    assert raw(output) == [raw(cache)[row] for row in kept]
    assert all(total for _, total in raw(output))
    lines = (cache / JOURNAL).read_text().splitlines()
    assert (output / JOURNAL).read_text().splitlines() == [lines[row] for row in kept]
    assert check(str(output)).problems == []
    made = read_identity(output)
    lineage = made.pop("lineage")
    assert made == read_identity(cache)
    assert lineage["options"] == {"where": ["source=*p[1345].png", "caption!~p3"]}
    assert lineage["of"] == [{"path": str(cache), "records": 7}]
    assert os.listdir(tmp_path) == ["some"]


def test_a_filtered_cache_is_built_on_and_keeps_its_lineage(photos, cache, tmp_path):
    filter_cache(str(cache), str(tmp_path / "c"), ["record<3"])
    plan = plan_for(photos, tmp_path / "c")
    assert (plan.present, len(plan.items)) == (3, 4)
    run(photos, tmp_path / "c")
    assert sorted(names(tmp_path / "c")) == names(cache)
    assert read_identity(tmp_path / "c")["lineage"]["made_by"] == "diffnext cache filter"


def test_filter_by_fields_of_records(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(8, 4, 6), (8, 6, 4), (8, 3, 2, 2)]
    rows = [
        {"moments": rng.normal(size=shapes[n % 3]), "caption": f"it is {n}", "label": n}
        for n in range(9)
    ]
    path = str(write_records(tmp_path / "c", rows))
    for where, wanted in {
        ("label>5",): [6, 7, 8],
        ("shape=8x6x4", "label!=4"): [1, 7],
        ("frames=3",): [2, 5, 8],
        ("width>=4", "caption~[0-3]$"): [0, 1, 3],
    }.items():
        output = tmp_path / "-".join(where).replace("/", "")
        filter_cache(path, str(output), where)
        assert [record["label"] for record in records(output)] == wanted
        wanted_records = [records(path)[row] for row in wanted]
        assert equal(records(output), wanted_records)
        reader = open_reader(output)
        found = [(shape, None if r is None else list(r)) for shape, r in reader.groups()]
        assert sum(len(records(output)) if r is None else len(r) for _, r in found) == len(wanted)


def test_merge_drops_what_an_earlier_cache_has(cache, tmp_path, capsys):
    for name, where in {"a": "record<4", "b": "record>=2", "c": "record=6"}.items():
        filter_cache(str(cache), str(tmp_path / name), [where])
    parts = [str(tmp_path / name) for name in "abc"]
    output = tmp_path / "all"
    assert main(["cache", "merge", *parts, "--output", str(output)]) == 0
    assert "7 records; 3 left out" in capsys.readouterr().out
    assert raw(output) == raw(cache)
    assert (output / JOURNAL).read_text() == (cache / JOURNAL).read_text()
    assert check(str(output)).problems == []
    lineage = read_identity(output)["lineage"]
    assert lineage["options"] == {"duplicates": 3}
    assert [origin["lineage"]["options"] for origin in lineage["of"]] == [
        {"where": ["record<4"]},
        {"where": ["record>=2"]},
        {"where": ["record=6"]},
    ]


def test_equal_files_of_one_cache_are_two_samples(tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("a", "b"):
        write_picture(tmp_path / "p", name, 1)
        (tmp_path / "p" / f"{name}.txt").write_text("The same.")
    run(tmp_path / "p", tmp_path / "c")
    filter_cache(str(tmp_path / "c"), str(tmp_path / "d"), ["record=0"])
    assert merge_caches([str(tmp_path / "c"), str(tmp_path / "d")], str(tmp_path / "e")) == (2, 1)


def test_merge_of_what_was_made_otherwise(cache, tmp_path):
    other = copy(cache, tmp_path / "o")
    identity = read_identity(other)
    write_identity(other, identity | {"vae": {"class": "Stub", "config": {"scaling_factor": 0.5}}})
    assert merge_caches([str(cache), str(other)], str(tmp_path / "s")) == (7, 7)
    alike = {"class": "Stub", "config": {"act_fn": "silu", "decoder_causal": True}}
    write_identity(other, identity | {"vae": alike})
    paths, defaults = [str(cache), str(other)], {"Stub": {"act_fn": "silu"}}.__getitem__
    assert merge_caches(paths, str(tmp_path / "t"), vae_defaults=defaults) == (7, 7)
    identity["vae"] = {"class": "Other"}
    write_identity(other, identity)
    with pytest.raises(ValueError, match=r"vae.class: .* has 'Stub', .* 'Other'"):
        merge_caches([str(cache), str(other)], str(tmp_path / "m"))
    rows = [{"moments": np.zeros((8, 2, 2)), "label": 1}]
    write_records(tmp_path / "l", rows)
    with pytest.raises(ValueError, match="has the fields"):
        merge_caches([str(cache), str(tmp_path / "l")], str(tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_merge_without_journals_keeps_all(tmp_path):
    rows = [{"moments": np.full((8, 2, 2), n), "label": n} for n in range(3)]
    paths = [str(write_records(tmp_path / name, rows)) for name in "ab"]
    assert merge_caches(paths, str(tmp_path / "m")) == (6, 0)
    assert [record["label"] for record in records(tmp_path / "m")] == [0, 1, 2] * 2
    assert not (tmp_path / "m" / JOURNAL).exists()


def test_split_parts_what_is_there(tmp_path, capsys):
    rows = [{"moments": np.full((8, 2, 2), n), "label": n} for n in range(200)]
    path = str(write_records(tmp_path / "c", rows))
    outputs = [str(tmp_path / name) for name in ("train", "val", "test")]
    command = ["cache", "split", path, "--shares", "0.8,0.15,0.05", "--output", *outputs]
    assert main(command) == 0
    assert "train: 160 records" in capsys.readouterr().out
    labels = [[record["label"] for record in records(output)] for output in outputs]
    assert [len(part) for part in labels] == [160, 30, 10]
    assert sorted(label for part in labels for label in part) == list(range(200))
    assert all(part == sorted(part) and part != list(range(len(part))) for part in labels)
    split_cache(path, [str(tmp_path / "x"), str(tmp_path / "y")], [0.8, 0.2], seed=1)
    again = [record["label"] for record in records(tmp_path / "x")]
    assert again != labels[0]


def test_split_keeps_the_views_of_a_medium_together(photos, tmp_path):
    rules = ViewRules(sizes=(((32, 48),), ((32, 32),)), flip=True)
    run(photos, tmp_path / "c", rules=rules)
    outputs = [str(tmp_path / "train"), str(tmp_path / "held")]
    assert split_cache(str(tmp_path / "c"), outputs, [0.7, 0.3]) == [20, 8]
    filter_cache(str(tmp_path / "c"), str(tmp_path / "m"), ["flip=1", "width=4"])
    assert [e.view.flip for e in entries(tmp_path / "m")] == [True] * 7
    found = [set(names(output)) for output in outputs]
    assert not found[0] & found[1]
    assert len(found[0] | found[1]) == 7


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.0, 0.0], [0.999, 0.001], [1.0]])
def test_shares_that_are_none(cache, tmp_path, shares):
    with pytest.raises(ValueError, match=r"shares|none of 7 records"):
        split_cache(str(cache), [str(tmp_path / "a"), str(tmp_path / "b")], shares)
    assert os.listdir(tmp_path) == []


def test_nothing_appears_where_it_cannot_be_whole(cache, tmp_path):
    broken = copy(cache, tmp_path / "c")
    flip_byte(broken / "00000.data", (broken / "00000.data").stat().st_size - 80)
    with pytest.raises(ValueError, match=r"record 6 .*p6.png.* is damaged"):
        filter_cache(str(broken), str(tmp_path / "out"), ["record>=3"])
    with pytest.raises(ValueError, match="none of 7 records"):
        filter_cache(str(broken), str(tmp_path / "out"), ["record>=30"])
    with pytest.raises(ValueError, match="exists already"):
        filter_cache(str(cache), str(broken), ["record=1"])
    assert os.listdir(tmp_path) == ["c"]


def test_a_killed_one_leaves_nothing_in_the_way(cache, tmp_path):
    script = """
import os, signal, sys
from diffnext.data.tools import algebra
add = algebra.Copy.add
def deadly(self, *args):
    add(self, *args)
    if self.count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
algebra.Copy.add = deadly
algebra.filter_cache(sys.argv[1], sys.argv[2], ["record>=0"])
"""
    output = tmp_path / "out"
    command = [sys.executable, "-c", script, str(cache), str(output)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -9
    assert not output.exists() and os.listdir(tmp_path)
    assert filter_cache(str(cache), str(output), ["record>=0"]) == (7, 7)
    assert raw(output) == raw(cache)
    assert os.listdir(tmp_path) == ["out"]
