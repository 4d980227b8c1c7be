import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheos.core.errors import ShapeError
from rheos.core.state import (
    add,
    affine,
    concat,
    device_of,
    dtype_of,
    expand,
    is_finite,
    lerp,
    like,
    map_state,
    rows,
    scale,
    select,
    split,
    tensors,
    where_rows,
)
from strategies import randn, seeds, states

coefficients = st.one_of(st.floats(-3, 3), seeds)


def pick(c, x):
    """The float itself, or one number a row from a seed."""
    return c if isinstance(c, float) else randn(rows(x), seed=c)


def same(x, y):
    return all(torch.allclose(a, b, rtol=1e-14, atol=1e-14) for a, b in zip(tensors(x), tensors(y), strict=True))


def other(x):
    return map_state(lambda v: v.cos(), x)


@given(x=states(), a=coefficients, b=coefficients)
def test_affine_is_scale_and_add_on_tensors_and_dicts_with_shared_and_row_coefficients(x, a, b):
    a, b, v = pick(a, x), pick(b, x), other(x)
    expected = map_state(lambda p, q: p * expand(a, p) + q * expand(b, q), x, v)
    assert same(affine(a, x, b, v), expected)
    assert same(add(scale(a, x), b, v), expected)


@pytest.mark.parametrize("a", [1.0, 0.3])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_coefficient_of_exactly_zero_drops_an_infinite_term(a, bad):
    x, v = torch.ones(2), torch.full((2,), bad)
    assert torch.equal(affine(a, x, 0.0, v), a * x)
    assert torch.equal(affine(0.0, v, a, x), a * x)


@given(x=states(), t=st.floats(0, 1))
def test_lerp_runs_from_the_first_to_the_second_and_hits_both(x, t):
    y = other(x)
    assert same(lerp(x, y, t), affine(1 - t, x, t, y))
    assert all(torch.equal(a, b) for a, b in zip(tensors(lerp(x, y, 0.0)), tensors(x), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors(lerp(x, y, 1.0)), tensors(y), strict=True))


@given(x=states(), data=st.data())
def test_concat_undoes_split_and_select_finds_the_same_rows(x, data):
    cut = data.draw(st.integers(0, rows(x)))
    sizes = [n for n in (cut, rows(x) - cut) if n]
    parts = split(x, sizes)
    assert [rows(p) for p in parts] == sizes
    assert all(torch.equal(a, b) for a, b in zip(tensors(concat(parts)), tensors(x), strict=True))
    order = torch.randperm(rows(x))
    assert all(torch.equal(a[order.argsort()], b) for a, b in zip(tensors(select(x, order)), tensors(x), strict=True))


@given(x=states())
def test_where_rows_takes_each_row_whole(x):
    y, mask = other(x), torch.arange(rows(x)) % 2 == 0
    for mixed, a, b in zip(tensors(where_rows(mask, x, y)), tensors(x), tensors(y), strict=True):
        assert torch.equal(mixed[mask], a[mask])
        assert torch.equal(mixed[~mask], b[~mask])


def test_a_coefficient_may_differ_by_row_and_variable_and_by_name():
    x = torch.ones(2, 3, 4)
    c = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(scale(c, x), c[..., None].expand(2, 3, 4))
    both = {"a": torch.ones(2, 1), "b": torch.ones(2, 2)}
    scaled = scale({"a": 2.0, "b": torch.tensor([3.0, 4.0])}, both)
    assert torch.equal(scaled["a"], torch.full((2, 1), 2.0))
    assert torch.equal(scaled["b"], torch.tensor([[3.0, 3.0], [4.0, 4.0]]))


def test_a_finite_row_has_only_finite_numbers_in_every_part():
    x = {"a": torch.tensor([[0.0, 1.0], [math.nan, 0.0], [0.0, 0.0]]), "b": torch.tensor([0.0, 0.0, math.inf])}
    assert is_finite(x).tolist() == [True, False, False]


def test_like_casts_floats_and_leaves_integers_alone():
    x = like({"a": torch.zeros(2), "n": torch.zeros(2, dtype=torch.int64)}, torch.float64)
    assert (x["a"].dtype, x["n"].dtype) == (torch.float64, torch.int64)
    assert (dtype_of(x), device_of(x).type) == (torch.float64, "cpu")


def test_states_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"prefix of the state's, got \(3,\) for \(2, 3\)"):
        scale(torch.zeros(3), torch.zeros(2, 3))
    with pytest.raises(ShapeError, match=r"same names: \['a'\] meets \['b'\]"):
        map_state(torch.add, {"a": torch.zeros(1)}, {"b": torch.zeros(1)})
    with pytest.raises(ShapeError, match=r"same names: \['a'\] meets a tensor"):
        add({"a": torch.zeros(1)}, 1.0, torch.zeros(1))
    with pytest.raises(ShapeError, match=r"tensor state meets a dict state with names \['a'\]"):
        map_state(torch.add, torch.zeros(1), {"a": torch.zeros(1)})
    with pytest.raises(ShapeError, match=r"tensor state meets a dict state with names \['a'\]"):
        add(torch.zeros(1), 1.0, {"a": torch.zeros(1)})
    with pytest.raises(ShapeError, match=r"needs one coefficient, got one for each of \['a'\]"):
        scale({"a": 1.0}, torch.zeros(1))
    with pytest.raises(ShapeError, match=r"one batch size, got \[2, 3\]"):
        rows({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ShapeError, match=r"one batch size, got \[-1\]"):
        rows(torch.tensor(1.0))
