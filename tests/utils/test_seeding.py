# SPDX-License-Identifier: Apache-2.0
"""Draws belong to samples: any grouping, order or repetition of a batch gives the same numbers."""

import torch

from diffnext.utils.seeding import Draws, mix

KEYS = [(0, 5), (0, 9), (1, 5), (2, 0)]


def test_a_batch_and_its_halves_draw_alike():
    whole = Draws(3, 10, KEYS).stream("noise")
    halves = [Draws(3, 10, KEYS[:2]).stream("noise"), Draws(3, 10, KEYS[2:]).stream("noise")]
    for draw in (lambda d: d.randn(4, 2), lambda d: d.permutation(7), lambda d: d.randint(9, 3)):
        assert torch.equal(draw(whole), torch.cat([draw(half) for half in halves]))


def test_the_step_matters_only_for_what_is_shared():
    first, later = Draws(3, 10, KEYS), Draws(3, 11, KEYS)
    assert torch.equal(first.rand(5), later.rand(5))
    assert not torch.equal(
        torch.rand(5, generator=first.shared()), torch.rand(5, generator=later.shared())
    )


def test_shared_numbers_do_not_depend_on_the_samples():
    first, other = Draws(3, 10, KEYS[:1]).shared(), Draws(3, 10, KEYS[1:]).shared()
    assert torch.equal(torch.rand(5, generator=first), torch.rand(5, generator=other))


def test_streams_samples_epochs_and_seeds_are_independent():
    base = Draws(3, 10, KEYS)
    numbers = list(base.stream("a").randn(256))
    numbers += list(base.stream("b").randn(256))
    numbers += list(Draws(4, 10, KEYS).stream("a").randn(256))
    correlation = torch.corrcoef(torch.stack(numbers)) - torch.eye(len(numbers))
    assert correlation.abs().max() < 0.3  # 5 standard deviations of 1 / sqrt(256)


def test_a_stream_continues():
    draws = Draws(3, 10, KEYS).stream("noise")
    assert not torch.equal(draws.randn(4), draws.randn(4))


def test_a_stream_that_is_asked_for_again_begins_anew():
    draws = Draws(3, 10, KEYS)
    assert torch.equal(draws.stream("noise").randn(4), draws.stream("noise").randn(4))


def test_mix_tells_types_and_groupings_apart():
    seeds = [mix(1, 23), mix(12, 3), mix("1", 23), mix(1, "23"), mix(123), mix("1", "23")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
