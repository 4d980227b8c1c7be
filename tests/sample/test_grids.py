import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from rheos.core import EDM
from rheos.core.errors import OptionError, TimeError, UnknownOptionError
from rheos.sample import Grid, check_grid
from rheos.sample.grids import ALIASES, SPACINGS, dynamic_shift
from strategies import SCHEDULES, schedules

spacings = st.one_of(
    st.sampled_from((*SPACINGS, *ALIASES)),
    st.floats(-1, 2 / (math.pi - 2)).map(lambda c: f"sway:{c!r}"),
    st.floats(1, 20).map(lambda rho: f"karras:{rho!r}"),
    st.floats(1e-4, 0.4).map(lambda eps: f"logsnr:{eps!r}"),
    st.tuples(st.floats(0.3, 5), st.floats(0.3, 5)).map(lambda ab: f"beta:{ab[0]!r}:{ab[1]!r}"),
)


@given(
    spacing=spacings,
    law=schedules,
    n=st.integers(1, 50),
    shift=st.floats(0.2, 5),
    terminal=st.none() | st.floats(0.01, 0.5),
    back=st.booleans(),
)
def test_every_grid_has_its_steps_runs_from_end_to_end_and_backwards_is_itself_reversed(
    spacing, law, n, shift, terminal, back
):
    grid = Grid(spacing, shift, terminal=terminal)(n, law)
    assert len(grid) == n + 1
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert all(a < b for a, b in itertools.pairwise(grid))
    if back:
        assert Grid(spacing, shift, start=1.0, stop=0.0, terminal=terminal)(n, law) == grid[::-1]


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


def test_rho_goes_from_uniform_in_the_ratio_to_uniform_in_lambda():
    # rho = 1: sigma / alpha itself is equidistant; rho to infinity: its logarithm, with an error of order 1 / rho
    law = SCHEDULES["linear"]
    ratio = [(1 - t) / t for t in Grid("karras:1", low=-2.0, high=2.0)(6, law)[1:-1]]
    gaps = [a - b for a, b in itertools.pairwise(ratio)]
    assert gaps == pytest.approx([gaps[0]] * 4, rel=1e-9)
    assert Grid("karras:1e7")(6) == pytest.approx(Grid("logsnr")(6), abs=1e-6)


def test_a_logsnr_grid_with_a_number_begins_and_ends_at_that_distance():
    grid = Grid("logsnr:0.01")(6)
    assert (grid[1], grid[-2]) == pytest.approx((0.01, 0.99), rel=1e-9)


def test_the_arcsine_law_gives_the_quantiles_of_its_closed_form():
    assert Grid("beta:0.5")(8) == pytest.approx([math.sin(math.pi * k / 16) ** 2 for k in range(9)], abs=1e-12)


@given(a=st.floats(0.3, 4), b=st.floats(0.3, 4), n=st.integers(2, 30))
def test_beta_grids_are_quantiles_and_mirror_when_the_numbers_change_places(a, b, n):
    grid = Grid(f"beta:{a!r}:{b!r}")(n)
    assert grid == pytest.approx([beta.ppf(k / n, a, b) for k in range(n + 1)], abs=1e-9)
    assert grid == pytest.approx([1 - t for t in reversed(Grid(f"beta:{b!r}:{a!r}")(n))], abs=1e-9)


def test_the_usual_beta_is_three_fifths_twice():
    assert Grid("beta")(7) == Grid("beta:0.6")(7) == Grid("beta:0.6:0.6")(7)


@given(n=st.integers(1, 40), c=st.floats(-1, 2 / (math.pi - 2)))
def test_sway_adds_its_curve_in_proportion_and_is_a_cosine_at_minus_one(n, c):
    full, none, some = Grid("sway:-1")(n), Grid("sway:0")(n), Grid(f"sway:{c!r}")(n)
    assert full == pytest.approx([1 - math.cos(math.pi * k / (2 * n)) for k in range(n + 1)], abs=1e-12)
    assert none == pytest.approx(Grid()(n), abs=1e-15)
    assert [t - u for t, u in zip(some, none, strict=True)] == pytest.approx(
        [-c * (t - u) for t, u in zip(full, none, strict=True)], abs=1e-12
    )


@given(spacing=spacings, n=st.integers(2, 30), shift=st.floats(0.2, 5), terminal=st.floats(0.01, 0.5))
def test_a_stretch_leaves_the_asked_rest_and_keeps_the_ratios_of_the_other_times(spacing, n, shift, terminal):
    before, after = Grid(spacing, shift)(n), Grid(spacing, shift, terminal=terminal)(n)
    assert 1 - after[-2] == pytest.approx(terminal, rel=1e-9)
    factor = (1 - terminal) / before[-2]
    assert after[:-1] == pytest.approx([factor * t for t in before[:-1]], abs=1e-12)


@pytest.mark.parametrize("spacing", [*SPACINGS, *ALIASES])
def test_one_step_is_the_whole_way_on_every_grid(spacing):
    assert Grid(spacing, 3.0, terminal=0.1)(1) == (0.0, 1.0)


def test_explicit_times_are_themselves_and_take_a_shift():
    assert Grid("0,0.5,1").steps == 2
    assert Grid("uniform").steps is None
    assert Grid("0,0.5,1")(2) == (0.0, 0.5, 1.0)
    assert Grid("0,0.5,1", 3.0)(2) == Grid(shift=3.0)(2)


@given(spacing=spacings | st.just("0,0.25,1"), shift=st.floats(0.2, 5).map(lambda k: float(f"{k:.12g}")))
def test_a_grid_as_text_is_read_again(spacing, shift):
    grid = Grid(spacing, shift)
    assert Grid.read(str(grid)) == grid
    assert Grid.read(spacing, shift) == grid


def test_other_names_mean_the_same_times():
    assert Grid("karras")(9) == Grid("edm")(9) == Grid("edm:7")(9)
    assert Grid("exponential")(9) == Grid("logsnr")(9)


def test_a_dynamic_shift_is_the_line_of_flux_in_the_exponent():
    assert dynamic_shift(256) == pytest.approx(math.exp(0.5), rel=1e-12)
    assert dynamic_shift(4096) == pytest.approx(math.exp(1.15), rel=1e-12)
    for length in (64, 1024, 9000):
        assert math.log(dynamic_shift(length)) == pytest.approx(0.5 + 0.65 * (length - 256) / 3840, rel=1e-12)
    assert dynamic_shift(3, base_length=1, max_length=5, base_shift=0.0, max_shift=2.0) == pytest.approx(math.e)


def test_a_part_of_the_way_is_the_whole_squeezed():
    assert Grid(start=0.2, stop=0.6)(4) == pytest.approx((0.2, 0.3, 0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Grid("karas"), UnknownOptionError, "spacing 'karas' is unknown"),
        (lambda: Grid("karas:7"), UnknownOptionError, "did you mean 'karras'"),
        (lambda: Grid("sway:x"), OptionError, "'sway:x' is no grid: 'x' is not a number"),
        (lambda: Grid("sway:-1.01"), OptionError, r"c, in \[-1, 1.7519\], got -1.01"),
        (lambda: Grid("sway:1.76"), OptionError, r"c, in \[-1, 1.7519\], got 1.76"),
        (lambda: Grid("sway:0:0"), OptionError, "takes one number, c"),
        (lambda: Grid("karras:0.5"), OptionError, "rho, of at least 1, got 0.5"),
        (lambda: Grid("beta:0"), OptionError, "positive numbers, a and b, got 0"),
        (lambda: Grid("beta:nan"), OptionError, "positive numbers, a and b, got nan"),
        (lambda: Grid("beta:1:2:3"), OptionError, "one or two positive numbers"),
        (lambda: Grid("logsnr:0.5"), OptionError, r"inside \(0, 0.5\), got 0.5"),
        (lambda: Grid("uniform:3"), OptionError, "'uniform' takes no numbers, got 3"),
        (lambda: Grid("0,0.3"), TimeError, "run from 0 to 1, got 0 to 0.3"),
        (lambda: Grid("1,0.3,0"), TimeError, "run from 0 to 1, got 1 to 0"),
        (lambda: Grid("0,0.6,0.3,1"), TimeError, "got 0.6 followed by 0.3"),
        (lambda: Grid("0,x,1"), OptionError, "'x' is not a number"),
        (lambda: Grid("0,0.3,1")(5), OptionError, "has 2 steps, got 5"),
        (lambda: Grid.read("uniform@"), OptionError, "'uniform@' is no grid: '' is not a number"),
        (lambda: Grid.read("uniform@-2"), OptionError, "shift must be positive, got -2"),
        (lambda: Grid(terminal=1.0), OptionError, r"terminal must lie in \(0, 1\), got 1.0"),
        (lambda: Grid(shift=math.nan), OptionError, "shift must be positive, got nan"),
        (lambda: dynamic_shift(0), OptionError, "length must be at least 1, got 0"),
        (lambda: dynamic_shift(9, max_length=256), OptionError, "base_length must be below max_length"),
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
