# SPDX-License-Identifier: Apache-2.0
"""Records beside their sources: PSNR against scikit-image, the gate, pages; repair by a real autoencoder."""

import base64
import io
import re

import numpy as np
import PIL.Image
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from diffnext.cli import main
from diffnext.data import media
from diffnext.data.records import open_reader, read_identity
from diffnext.data.tools.algebra import filter_cache
from diffnext.data.tools.quality import psnr, sheet
from diffnext.data.tools.verify import check
from diffnext.data.views import View
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.loading import describe_vae
from tests.data.cache_builds import write_picture
from tests.data.tools.small import equal, flip_byte, records

VIEW = View(32, 48)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pictures, the folder of an autoencoder, and the cache that it makes of them."""
    root = tmp_path_factory.mktemp("show")
    torch.manual_seed(0)
    sizes = {"block_out_channels": (4, 4, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    AutoencoderKL(latent_channels=4, **sizes, **blocks).save_pretrained(root / "vae")
    (root / "photos").mkdir()
    for number in range(3):
        write_picture(root / "photos", f"p{number}", number)
    assert build(root / "photos", root / "cache", root / "vae") == 0
    return root


def build(photos, cache, vae):
    words = ["--input", photos, "--output", cache, "--vae", vae, "--resolution", "32x48"]
    return main(["cache", "build", *map(str, words), "--workers", "0", "--device", "cpu"])


def by_hand(made, number):
    """Source and reconstruction (H, W, 3) uint8 of a picture."""
    medium = media.probe(str(made / "photos" / f"p{number}.png"))
    [[source]] = media.read(medium, [VIEW])
    moments = records(made / "cache")[number]["moments"].reshape(8, 4, 6)[:4]
    vae = AutoencoderKL.from_pretrained(made / "vae")
    with torch.no_grad():
        pixels = vae.decode(torch.from_numpy(moments.astype(np.float32))[None]).sample[0]
    pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return source, pixels


def show(made, *options):
    words = ["show", made / "cache", "--vae", made / "vae", *options]
    return main(["cache", *map(str, words)])


def test_page_with_the_worst_first(made, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert show(made, "--out", page) == 0
    wanted = {n: peak_signal_noise_ratio(*by_hand(made, n)) for n in range(3)}
    order = sorted(wanted, key=wanted.get)
    shown = capsys.readouterr().out
    found = re.findall(r"^ +(\d+)  ([\d.]+) dB", shown, re.MULTILINE)
    assert [int(row) for row, _ in found] == order
    for row, value in found:
        assert float(value) == pytest.approx(wanted[int(row)], abs=0.006)
    text = page.read_text()
    assert re.findall(r"<figcaption>record (\d)", text) == [str(row) for row in order]
    first = base64.b64decode(re.search(r"base64,([^\"]+)\"", text)[1])
    pixels = np.asarray(PIL.Image.open(io.BytesIO(first)))
    np.testing.assert_array_equal(pixels[:, :48], by_hand(made, order[0])[0])
    assert pixels.shape == (32, 96, 3)
    assert "Picture p0. It is noise." in text
    assert f"PSNR of 3 records: {min(wanted.values()):.2f} to " in text


def test_the_gate(made, tmp_path, capsys):
    values = sorted(peak_signal_noise_ratio(*by_hand(made, n)) for n in range(3))
    out = ("--out", tmp_path / "sheet.png", "--count", "-1")
    assert show(made, *out, "--min-psnr", values[0] - 0.01) == 0
    assert show(made, *out, "--min-psnr", values[1]) == 1
    assert "1 records are below" in capsys.readouterr().err


def test_sources_that_are_gone_or_edited(made, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        write_picture(tmp_path / "photos", f"p{number}", number)
    assert build(tmp_path / "photos", tmp_path / "cache", made / "vae") == 0
    (tmp_path / "photos" / "p0.png").unlink()
    write_picture(tmp_path / "photos", "p1", 7)
    words = ["show", tmp_path / "cache", "--vae", made / "vae", "--out", tmp_path / "sheet.png"]
    capsys.readouterr()
    assert main(["cache", *map(str, words)]) == 0
    shown = capsys.readouterr()
    assert "PSNR of 1 records" in shown.out and shown.out.count("no source") == 2
    assert "is not there" in shown.err and "was edited since" in shown.err
    (tmp_path / "photos" / "p2.png").unlink()
    assert main(["cache", *map(str, words), "--min-psnr", "1"]) == 1
    assert "--min-psnr needs sources, and there are none" in capsys.readouterr().err


def test_another_autoencoder_is_refused(made, tmp_path, capsys):
    torch.manual_seed(1)
    vae = AutoencoderKL.from_pretrained(made / "vae")
    torch.nn.init.normal_(vae.quant_conv.weight)
    vae.save_pretrained(tmp_path / "vae")
    words = ["show", made / "cache", "--vae", tmp_path / "vae", "--out", tmp_path / "a.png"]
    assert main(["cache", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert "vae.weights_sha256: the cache has" in said and "vae.config" not in said
    assert not (tmp_path / "a.png").exists()


def test_repair_by_the_autoencoder(made, tmp_path, capsys):
    filter_cache(str(made / "cache"), str(tmp_path / "c"), ["record>=0"])
    flip_byte(tmp_path / "c" / "00000.data", 100)
    words = ["verify", tmp_path / "c", "--repair", "--vae", made / "vae", "--device", "cpu"]
    assert main(["cache", *map(str, [*words, "--workers", "0"])]) == 0
    assert "1 encoded again, 0 dropped" in capsys.readouterr().out
    assert check(str(tmp_path / "c")).problems == []
    found, wanted = (
        sorted(records(path), key=lambda r: r["caption"])
        for path in (tmp_path / "c", made / "cache")
    )
    for ours, theirs in zip(found, wanted, strict=True):
        close = {k: np.allclose(ours[k], theirs[k], 2**-9, 2**-12) for k in ("moments",)}
        assert close["moments"] and ours["caption"] == theirs["caption"]
    assert equal(found[1:], wanted[1:])
    assert len(open_reader(tmp_path / "c")) == 3


def test_an_imported_cache_states_the_autoencoder_it_is_given(made, tmp_path, capsys):
    wanted = records(made / "cache")
    moments = wanted[0]["moments"].reshape(8, 4, 6).astype(np.float32)
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "a.npz", moments=moments)
    words = ["import", tmp_path / "npz", "--from", "mar", "--output", tmp_path / "c"]
    assert main(["cache", *map(str, [*words, "--vae", made / "vae"])]) == 0
    identity = read_identity(tmp_path / "c")
    assert identity["vae"] == describe_vae(str(made / "vae"))
    assert identity["strides"] == {"time": 1, "space": 8}
    assert identity["imported"]["unknown"] == ["rules"]
    words = ["show", tmp_path / "c", "--vae", made / "vae", "--out", tmp_path / "sheet.png"]
    capsys.readouterr()
    assert main(["cache", *map(str, words)]) == 0
    assert "no source" in capsys.readouterr().out
    shown = np.asarray(PIL.Image.open(tmp_path / "sheet.png"))[:32, :48]
    np.testing.assert_array_equal(shown, by_hand(made, 0)[1])


def test_psnr_and_sheet():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    assert psnr(one, other) == pytest.approx(peak_signal_noise_ratio(one, other), rel=1e-6)
    assert psnr(one, one) == np.inf
    page = sheet([np.full((4, 9, 3), n, np.uint8) for n in range(5)])
    assert sorted(set(page.ravel())) == [0, 1, 2, 3, 4, 255]
