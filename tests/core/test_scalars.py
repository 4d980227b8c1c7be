import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from rheos.core import scalars as sc

FUNCTIONS = ["exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "sigmoid"]


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or a == b or math.isclose(a, b, rel_tol=1e-15, abs_tol=5e-324)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(z=st.floats(-1000, 1000))
@example(z=0.0)
@example(z=-1.0)
@example(z=-40.0)
@example(z=800.0)
def test_a_float_and_a_tensor_give_one_number(name, z):
    f = getattr(sc, name)
    value = f(z)
    assert isinstance(value, float)
    assert same(value, float(f(torch.tensor(z, dtype=torch.float64))))


@given(z=st.floats(-700, -1))
def test_the_sigmoid_keeps_its_digits_far_below_zero(z):
    assert math.isclose(sc.sigmoid(z), math.exp(z) / (1 + math.exp(z)), rel_tol=1e-15)


@given(a=st.floats(allow_nan=True, allow_infinity=True), b=st.sampled_from([0.0, -0.0, 2.0, math.inf, math.nan]))
def test_division_follows_the_rules_of_floating_point_tensors(a, b):
    expected = torch.tensor(a, dtype=torch.float64) / torch.tensor(b, dtype=torch.float64)
    assert same(sc.divide(a, b), float(expected))


@given(z=st.floats(0, 100), p=st.floats(0.1, 8))
def test_powers_of_floats_and_tensors_agree(z, p):
    assert math.isclose(sc.power(z, p), float(sc.power(torch.tensor(z, dtype=torch.float64), p)), rel_tol=1e-14)


def test_where_picks_by_a_bool_and_by_a_mask():
    assert sc.where(True, 1.0, 2.0) == 1.0
    assert sc.where(False, 1.0, 2.0) == 2.0
    mask = torch.tensor([True, False])
    assert torch.equal(sc.where(mask, torch.zeros(2), torch.ones(2)), torch.tensor([0.0, 1.0]))


def test_two_floats_picked_by_a_mask_keep_float64():
    picked = sc.where(torch.tensor([True, False]), 1 / 6, 1 / 3)
    assert picked.dtype == torch.float64
    assert picked.tolist() == [1 / 6, 1 / 3]
