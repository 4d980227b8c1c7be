"""Options: ranges, the learning rate's curve, and what stands in the help."""

import inspect
import re
from dataclasses import FrozenInstanceError, fields
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheos.core.errors import OptionError, UnknownOptionError
from rheos.train import Options
from rheos.train.options import MAY_CHANGE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"batch": 1.5}, "batch must be a whole number of at least 1, got 1.5"),
        ({"accumulate": 0}, "accumulate must be a whole number of at least 1"),
        ({"batch": 4, "accumulate": 5}, "4 rows cannot be cut into accumulate=5 parts"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": float("nan")}, "lr must be positive and finite, got nan"),
        ({"betas": (0.9, 1.0)}, r"betas are two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or positive, got -1.0"),
        ({"clip": float("inf")}, "clip must be 0 or positive, got inf"),
        ({"warmup": -1}, "warmup must be a whole number of at least 0"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\), got 1.0; 0 keeps no average"),
        ({"save_every": -1}, "save_every must be a whole number of at least 0"),
        ({"keep": 0}, "keep must be a whole number of at least 1"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"trackers": "wandb"}, "trackers is a list of names, got the text 'wandb'"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_values_outside_their_range_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        Options(**changes)


@pytest.mark.parametrize(
    ("changes", "near"),
    [
        ({"optimiser": "adamW"}, "adamw"),
        ({"decay": "cosin"}, "cosine"),
        ({"precision": "bf32"}, "fp32"),
        ({"trackers": ("tensorbord",)}, "tensorboard"),
        ({"parallel": "fdsp"}, "fsdp"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_unknown_names_are_refused_with_near_names(changes, near):
    with pytest.raises(UnknownOptionError, match=f"did you mean .*{near}"):
        Options(**changes)


def test_options_cannot_be_changed_once_made():
    with pytest.raises(FrozenInstanceError):
        Options().lr = 1.0  # type: ignore[misc]


def test_every_option_is_explained_in_the_docstring_that_becomes_help():
    described = re.findall(r"^    (\w+): ", inspect.cleandoc(Options.__doc__ or ""), re.MULTILINE)
    assert [name for name in described if name != "OptionError"] == [f.name for f in fields(Options)]
    assert {f.name for f in fields(Options)} >= MAY_CHANGE


@given(warmup=st.integers(0, 50), steps=st.integers(1, 200), decay=st.sampled_from(["cosine", "linear", "constant"]))
def test_the_rate_rises_through_warm_up_never_exceeds_lr_and_then_never_rises(warmup, steps, decay):
    options = Options(lr=3.0, warmup=warmup, decay=decay)
    rates = [options.rate(k, steps) for k in range(steps)]
    assert all(0 < r <= 3.0 for r in rates)
    assert all(a < b for a, b in pairwise(rates[:warmup]))
    assert all(a >= b for a, b in pairwise(rates[warmup:]))


def test_cosine_and_linear_decay_pass_through_half_in_the_middle_and_aim_at_nothing():
    for decay in ("cosine", "linear"):
        options = Options(lr=1.0, warmup=10, decay=decay)
        assert options.rate(10, 110) == 1.0
        assert options.rate(60, 110) == pytest.approx(0.5)
        assert options.rate(110, 110) == pytest.approx(0.0)
    assert Options(lr=1.0, warmup=0, decay="constant").rate(99, 100) == 1.0


def test_warm_up_is_a_tenth_of_a_short_run_and_a_hundred_steps_of_a_long_one():
    options = Options(lr=1.0, decay="constant")
    assert [options.rate(k, 40) for k in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert options.rate(98, 10_000) == 0.99
    assert options.rate(99, 10_000) == 1.0
