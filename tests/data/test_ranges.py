"""Value ranges are declared, converted exactly, and never guessed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.errors import DataError, NonFiniteError
from rheos.data import check_range
from rheos.data.ranges import check_finite, check_within, deliver, to_pictures

bytes_ = torch.arange(256, dtype=torch.uint8)


def test_all_bytes_survive_delivery_and_return_and_both_ends_are_exact():
    x = deliver(bytes_, (0.0, 255.0), (-1.0, 1.0))
    assert x.dtype == torch.float32
    assert (x[0].item(), x[255].item()) == (-1.0, 1.0)
    assert torch.equal(x, -x.flip(0))
    assert torch.equal(to_pictures(x), bytes_)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(low=st.floats(-100, 100), width=st.floats(0.1, 100), to=st.floats(-10, 10))
def test_delivery_is_the_affine_map_of_the_ends(low, width, to):
    x = torch.tensor([low, low + width / 4, low + width])
    y = deliver(x, (low, low + width), (to, to + 2.0)).double()
    # float32 keeps 24 bits of the largest number, the map multiplies its error by 2 / width
    allowed = 1e-6 * (2 * (abs(low) + width) / width + abs(to) + 2)
    assert torch.allclose(y, torch.tensor([to, to + 0.5, to + 2.0], dtype=torch.float64), rtol=0, atol=allowed)


def test_numbers_without_a_range_are_delivered_as_they_are():
    x = torch.randn(3, 2)
    assert torch.equal(deliver(x, None, None), x)


def test_pictures_are_clamped_and_rounded_to_the_nearest():
    x = torch.tensor([-math.inf, -1.2, -1 + 1.4 / 127.5, 1.0, 300.0, math.inf])
    assert to_pictures(x).tolist() == [0, 0, 1, 255, 255, 255]
    assert to_pictures(torch.tensor([0.0, 0.5, 1.0]), (0.0, 1.0)).tolist() == [0, 128, 255]


def test_a_nan_is_no_colour():
    with pytest.raises(NonFiniteError, match="1 of 2 numbers are NaN"):
        to_pictures(torch.tensor([0.0, math.nan]))


def test_the_first_row_that_is_not_finite_is_named():
    x = torch.zeros(5, 2, 2)
    x[3, 0, 1] = math.inf
    with pytest.raises(NonFiniteError, match="x holds 1 NaN or infinite number, first in row 3") as caught:
        check_finite(x, "x")
    assert caught.value.values["row"] == 3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_a_byte_picture_for_a_field_of_minus_one_to_one_is_an_error(dtype):
    picture = torch.arange(0, 256, 5).to(dtype)
    with pytest.raises(DataError, match=r"from 0 to 255, but \(-1, 1\) is expected.*127\.5"):
        check_range(picture, (-1.0, 1.0), "the picture")


def test_even_a_dark_byte_picture_is_an_error():
    with pytest.raises(DataError, match="of type uint8"):
        check_range(torch.zeros(4, dtype=torch.uint8), (-1.0, 1.0))


def test_three_half_widths_are_the_border():
    check_range(torch.tensor([-3.0, 3.0]), (-1.0, 1.0))
    check_range(torch.tensor([-1.0, 2.0]), (0.0, 1.0))
    with pytest.raises(DataError, match=r"\(0, 1\) is expected.*a map onto"):
        check_range(torch.tensor([2.01]), (0.0, 1.0))
    with pytest.raises(DataError, match="is expected"):
        check_range(torch.tensor([-3.01]), (-1.0, 1.0))


def test_without_a_range_only_nan_is_refused_and_nothing_passes_as_nothing():
    check_range(torch.tensor([1e9]), None)
    check_range(torch.empty(0, 3), (-1.0, 1.0))
    with pytest.raises(NonFiniteError, match="y holds 1 NaN"):
        check_range(torch.tensor([math.nan]), None, "y")


def test_values_outside_the_declared_range_are_refused():
    check_within(torch.tensor([0.0, 1.0005]), (0.0, 1.0), "x")
    with pytest.raises(DataError, match=r"from 0 to 1\.5, outside its declared range \(0, 1\).*range=\(low, high\)"):
        check_within(torch.tensor([0.0, 1.5]), (0.0, 1.0), "x")
