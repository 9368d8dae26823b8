# SPDX-License-Identifier: Apache-2.0
"""A build goes on where a line of its journal is damaged, and says what it did."""

from diffnext.data.journal import JOURNAL
from tests.cli.embedding import build


def test_the_record_of_a_damaged_line_is_made_again(photos, model, tmp_path, capsys):
    build(photos, tmp_path / "c", model)
    journal = tmp_path / "c" / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole.replace(b"{", b"[", 1))
    build(photos, tmp_path / "c", model, "--dry-run", code=2)
    assert "its line 1 is damaged; a build without --dry-run makes" in capsys.readouterr().err
    build(photos, tmp_path / "c", model)
    told = capsys.readouterr().out
    assert "1 records were dropped, the first of them number 0" in told
    assert "c: 1 written, 4 records in all, 0 dropped, 0 failed" in told
    assert sorted(journal.read_bytes().splitlines()) == sorted(whole.splitlines())
