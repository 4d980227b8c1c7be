import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheos.core import EDM
from rheos.core.errors import OptionError, TimeError, UnknownOptionError
from rheos.sample import Grid, check_grid
from rheos.sample.grids import SPACINGS
from strategies import SCHEDULES, schedules


@given(
    spacing=st.sampled_from(SPACINGS), law=schedules, n=st.integers(1, 50), shift=st.floats(0.2, 5), back=st.booleans()
)
def test_every_grid_has_its_steps_runs_from_end_to_end_and_backwards_is_itself_reversed(spacing, law, n, shift, back):
    grid = Grid(spacing, shift)(n, law)
    assert len(grid) == n + 1
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert all(a < b for a, b in itertools.pairwise(grid))
    if back:
        assert Grid(spacing, shift, start=1.0, stop=0.0)(n, law) == grid[::-1]


@given(n=st.integers(1, 30), shift=st.floats(0.2, 5))
def test_a_shift_is_that_of_noise_levels_and_is_applied_once(n, shift):
    for k, t in enumerate(Grid(shift=shift)(n)):
        sigma = 1 - k / n
        assert math.isclose(1 - t, shift * sigma / (1 + (shift - 1) * sigma), abs_tol=1e-12)


@pytest.mark.parametrize("law", SCHEDULES.values(), ids=SCHEDULES)
def test_inside_a_logsnr_grid_lambda_is_equidistant(law):
    lam = [law.lam(t) for t in Grid("logsnr", low=-3.0, high=3.0)(9, law)[1:-1]]
    gaps = [b - a for a, b in itertools.pairwise(lam)]
    assert gaps == pytest.approx([6.0 / 7] * 7, rel=1e-6)


def test_the_edm_spacing_is_karras_in_the_ratio_of_noise_to_signal():
    law = EDM(0.002, 80.0, 7.0)
    ratio = [law.sigma(t) for t in Grid("edm", low=-math.log(80.0), high=-math.log(0.002))(8, law)]
    expected = [(80 ** (1 / 7) + k / 8 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for k in range(9)]
    assert ratio == pytest.approx(expected, rel=1e-6)


def test_the_quadratic_spacing_is_dense_at_the_data():
    grid = Grid("quadratic")(4)
    assert grid == pytest.approx([0, 7 / 16, 12 / 16, 15 / 16, 1])


def test_a_part_of_the_way_is_the_whole_squeezed():
    assert Grid(start=0.2, stop=0.6)(4) == pytest.approx((0.2, 0.3, 0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Grid("karas"), UnknownOptionError, "spacing 'karas' is unknown"),
        (lambda: Grid(shift=0.0), OptionError, "shift must be positive, got 0"),
        (lambda: Grid(low=1.0, high=1.0), OptionError, "low must be below high"),
        (lambda: Grid(start=0.5, stop=0.5), TimeError, "different times"),
        (lambda: Grid(stop=1.5), TimeError, r"in \[0, 1\]"),
        (lambda: Grid()(0), OptionError, "steps must be at least 1, got 0"),
        (lambda: check_grid([0.5]), TimeError, "at least two times, got 1"),
        (lambda: check_grid([0.0, 20.0]), TimeError, r"0 is noise, 1 is data.*got 20"),
        (lambda: check_grid([0.0, 0.5, 0.5, 1.0]), TimeError, "got 0.5 followed by 0.5"),
        (lambda: check_grid([1.0, 0.2, 0.4]), TimeError, "got 0.2 followed by 0.4"),
        (lambda: check_grid([0.0, float("nan")]), TimeError, "got nan"),
    ],
)
def test_what_is_no_grid_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()
