# SPDX-License-Identifier: Apache-2.0
"""Learning rates against numbers worked out by hand."""

import pytest

from diffnext.engine.lr_scheduler import make_schedule


@pytest.mark.parametrize(("step", "lr"), [(0, 4.996e-7), (124, 5.005e-5), (249, 1e-4), (250, 1e-4)])
@pytest.mark.parametrize("policy", ["constant", "cosine_decay", "steps_with_decay", ""])
def test_the_warm_up_has_the_published_values(policy, step, lr):
    schedule = make_schedule(
        policy, base_lr=1e-4, max_steps=1_000_000, warm_up_steps=250, warm_up_factor=1e-3
    )
    assert schedule(step) == pytest.approx(lr, rel=1e-9)


@pytest.mark.parametrize(
    ("step", "lr"), [(0, 1.0), (9, 1.0), (10, 0.5), (19, 0.5), (20, 0.25), (10**6, 0.25)]
)
def test_steps_halve_the_rate(step, lr):
    schedule = make_schedule("steps_with_decay", base_lr=1.0, max_steps=30, decay_steps=[10, 20])
    assert schedule(step) == lr


@pytest.mark.parametrize(
    ("step", "lr"), [(20, 1.0), (60, 0.55), (100, 0.1), (130, 0.1), (40, 0.8681980515)]
)
def test_cosine_falls_from_the_warm_up_to_the_minimum(step, lr):
    schedule = make_schedule(
        "cosine_decay", base_lr=1.0, min_lr=0.1, max_steps=100, warm_up_steps=20, warm_up_factor=0.1
    )
    assert schedule(step) == pytest.approx(lr)


@pytest.mark.parametrize(
    ("policy", "power", "step", "lr"),
    [
        ("linear_decay", 3.0, 20, 1.0),  # the power is not for it
        ("linear_decay", 3.0, 60, 0.55),
        ("linear_decay", 3.0, 99, 0.11125),
        ("linear_decay", 3.0, 100, 0.1),
        ("linear_decay", 3.0, 1000, 0.1),
        ("polynomial_decay", 2.0, 20, 1.0),
        ("polynomial_decay", 2.0, 60, 0.325),  # 0.1 + 0.9 / 4
        ("polynomial_decay", 3.0, 60, 0.2125),
        ("polynomial_decay", 1.0, 40, 0.775),
        ("polynomial_decay", 2.0, 100, 0.1),
    ],
)
def test_a_power_falls_from_the_warm_up_to_the_minimum(policy, power, step, lr):
    schedule = make_schedule(
        policy, base_lr=1.0, min_lr=0.1, max_steps=100, decay_power=power, warm_up_steps=20
    )
    assert schedule(step) == pytest.approx(lr)


@pytest.mark.parametrize("policy", ["cosine_decay", "linear_decay", "polynomial_decay"])
def test_a_run_that_is_all_warm_up_ends_in_it(policy):
    schedule = make_schedule(policy, base_lr=1.0, max_steps=20, warm_up_steps=20)
    assert schedule(19) == 1.0
    assert schedule(20) in (0.0, 1.0)  # never asked for


def test_no_warm_up_begins_at_the_base_rate():
    assert make_schedule("constant", base_lr=0.3, max_steps=5)(0) == 0.3


@pytest.mark.parametrize("wrong", ["a", "10", True, None, 1.5, -1, [1], float("nan")])
def test_boundaries_are_numbers_of_steps(wrong):
    with pytest.raises(ValueError, match=r"SOLVER\.DECAY_STEPS has .* wanted are whole numbers"):
        make_schedule("constant", base_lr=1.0, max_steps=5, decay_steps=[wrong])


def test_boundaries_may_be_powers_of_ten():
    schedule = make_schedule("steps_with_decay", base_lr=1.0, max_steps=30, decay_steps=[1e1, 20])
    assert [schedule(step) for step in (9, 10, 20)] == [1.0, 0.5, 0.25]


def test_errors_name_key_and_choices():
    with pytest.raises(ValueError, match=r"MIN_LR is 0\.1, above SOLVER\.BASE_LR 0\.01; cosine"):
        make_schedule("cosine_decay", base_lr=0.01, max_steps=5, min_lr=0.1)
    with pytest.raises(
        ValueError, match=r"LR_POLICY is 'cos'; there are \['constant', 'cosine_decay'"
    ):
        make_schedule("cos", base_lr=1.0, max_steps=5)
    with pytest.raises(ValueError, match=r"DECAY_STEPS must ascend, found \[20, 10\]"):
        make_schedule("constant", base_lr=1.0, max_steps=5, decay_steps=[20, 10])
