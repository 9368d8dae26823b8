# SPDX-License-Identifier: Apache-2.0
"""The command that users run, by torchrun and with a full disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffnext.cli import build_cache
from diffnext.data.records.folder_writer import FolderWriter
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from tests.data.cache_builds import records, write_photos

ROOT = Path(__file__).parents[2]
TINY = {"block_out_channels": (4, 4, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


@pytest.fixture
def folder(tmp_path):
    """Photos and an autoencoder."""
    torch.manual_seed(0)
    AutoencoderKL(**TINY, **BLOCKS).save_pretrained(tmp_path / "vae")
    write_photos(tmp_path / "photos")
    return tmp_path


def arguments(folder, output):
    return [
        *("--input", str(folder / "photos"), "--output", str(folder / output)),
        *("--vae", str(folder / "vae"), "--resolution", "32x48", "--batch-size", "1"),
        *("--workers", "0", "--device", "cpu"),
    ]


def test_a_full_disk_is_named_with_what_to_do(folder, monkeypatch, capsys):
    def full(self, record):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FolderWriter, "write", full)
    assert build_cache.main(arguments(folder, "cache")) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "build_cache: [Errno 28] No space left on device",
        f"  what is in {folder / 'cache'} is kept; the same command goes on when there is room",
    ]
    monkeypatch.undo()
    assert build_cache.main(arguments(folder, "cache")) == 0
    assert "7 written, 7 records in all" in capsys.readouterr().out


def test_what_is_not_joined_is_said_by_a_dry_run(folder, monkeypatch, capsys):
    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffnext.data.cache_ranks.join", killed)
    command = [*arguments(folder, "cache"), "--join"]
    assert build_cache.main(command) == 130
    monkeypatch.undo()
    assert build_cache.main([*command, "--dry-run", "--probe", "0"]) == 0
    output = capsys.readouterr().out
    assert "records of a build by many processes are not joined yet" in output
    assert build_cache.main(arguments(folder, "cache")) == 0  # alone
    output = capsys.readouterr().out
    assert "an earlier build left records, which are joined to the cache now" in output
    assert "cache: 7 hit, 0 to build" in output


@pytest.mark.slow
def test_torchrun(folder, capsys):
    """Two processes give what one gives; what they disagree on is the order."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    tool = [str(ROOT / "tools" / "build_cache.py"), *arguments(folder, "two")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *tool], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "7 written, 7 records in all" in done.stdout
    assert build_cache.main(arguments(folder, "one")) == 0
    two, one = records(folder / "two"), records(folder / "one")
    assert two.keys() == one.keys()
    for caption in one:  # sums may be taken in another order by more threads; float16 keeps 11 bits
        np.testing.assert_allclose(two[caption], one[caption], rtol=2**-10, atol=1e-4)
