# SPDX-License-Identifier: Apache-2.0
"""Encoding that runs out of memory, fails on single samples, or gives moments that are no use."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffnext.data.encoding import Encoder, PatientEncoder, flaw, is_out_of_memory


def clips(count, *, height=16, first=0):
    """Clips (1, height, 16, 3) that are told apart by their pixels."""
    return [np.full((1, height, 16, 3), first + number, np.uint8) for number in range(count)]


def encode(frames):
    return frames[:, :1, :2, :2, 0].astype(np.float16)


def numbers(outcomes):
    return [float(outcome.flat[0]) for outcome in outcomes]


class Small:
    """An autoencoder whose memory holds so many pixels."""

    def __init__(self, pixels):
        self.pixels, self.calls = pixels, []

    def __call__(self, frames):
        self.calls.append(len(frames))
        if frames[..., 0].size > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(frames)


def test_a_batch_that_memory_is_too_small_for_is_halved_and_that_is_remembered(caplog):
    small = Small(pixels=3 * 256)
    patient = PatientEncoder(small)
    assert numbers(patient(clips(8))) == list(range(8))
    assert small.calls == [8, 4, 2, 2, 2, 2]
    assert numbers(patient(clips(5))) == list(range(5))
    assert small.calls[6:] == [2, 2, 1]
    [record] = caplog.records
    assert record.getMessage().startswith("memory is too small for 8 samples of 1 x 16x16 px")


def test_each_size_has_its_own_limit(caplog):
    small = Small(pixels=4 * 256)
    patient = PatientEncoder(small)
    patient(clips(4, height=32))
    patient(clips(4))
    assert small.calls == [4, 2, 2, 4]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False),
        (MemoryError(), True),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, lacks):
    assert is_out_of_memory(error) is lacks


def test_a_sample_that_alone_is_too_large_is_lost_and_no_other():
    patient = PatientEncoder(Small(pixels=255))
    assert all(isinstance(outcome, torch.OutOfMemoryError) for outcome in patient(clips(2)))


def test_errors_of_memory_are_known_by_the_errors_themselves():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as caught:
        np.empty(10**18)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("Expected all tensors to be on the same device"))


def test_a_batch_that_fails_is_taken_sample_by_sample_and_that_is_said_once(caplog):
    calls = []

    def picky(frames):
        calls.append(len(frames))
        if 3 in frames:
            raise RuntimeError("no such number")
        return encode(frames)

    patient = PatientEncoder(picky)
    outcomes = patient(clips(4)) + patient(clips(2, first=3))
    assert calls == [4, 1, 1, 1, 1, 2, 1, 1]
    assert [isinstance(outcome, RuntimeError) for outcome in outcomes] == [0, 0, 0, 1, 1, 0]
    [record] = caplog.records
    assert "a batch of 4 cannot be encoded (RuntimeError: no such number)" in record.getMessage()


def test_nothing_to_encode():
    assert PatientEncoder(encode)([]) == []


@pytest.mark.parametrize("video", [False, True])
def test_pixels_are_scaled_to_one_and_reach_the_autoencoder_channel_last(video):
    seen = []

    class Autoencoder(torch.nn.Linear):
        def encode(self, x):
            seen.append(x)
            return SimpleNamespace(latent_dist=SimpleNamespace(parameters=x))

    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 6, 3), np.uint8)
    moments = Encoder(Autoencoder(1, 1), video=video)(frames)
    wanted = (frames.astype(np.float64) - 127.5) / 127.5  # (B, T, H, W, 3)
    wanted = np.moveaxis(wanted, -1, 1) if video else np.moveaxis(wanted[:, 0], -1, 1)
    np.testing.assert_allclose(moments, wanted, atol=2**-11)  # float16
    form = torch.channels_last_3d if video else torch.channels_last
    assert moments.dtype == np.float16 and seen[0].is_contiguous(memory_format=form)


@pytest.mark.slow
def test_compiled_moments_are_those_of_the_autoencoder():
    class Autoencoder(torch.nn.Conv2d):
        def encode(self, x):
            moments = torch.nn.functional.silu(self(x))
            return SimpleNamespace(latent_dist=SimpleNamespace(parameters=moments))

    torch.manual_seed(0)
    vae = Autoencoder(3, 4, 3, stride=2)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16, 3), np.uint8)
    usual = Encoder(vae, video=False)(frames)
    compiled = Encoder(vae, video=False, compiled=True)(frames)
    np.testing.assert_allclose(compiled, usual, atol=2**-10)  # float16, other order of sums


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((0, np.inf), "NaN or beyond the range of float16"),
        ((1, np.nan), "NaN or beyond the range of float16"),
        ((slice(0, 1), 2), "constant, 2 everywhere"),
    ],
)
def test_moments_that_are_no_use(change, reason):
    moments = np.arange(8, dtype=np.float16).reshape(2, 2, 2)
    assert flaw(moments) is None
    place, value = change
    moments[place] = value
    assert reason in str(flaw(moments))
