"""The table of a discrete diffusion, carried on to the clean end."""

import math

import pytest
import torch

from rheos.adapters import StepTable
from rheos.adapters.table import alpha_bars, rescaled
from rheos.core.errors import OptionError, UnknownOptionError

SD = StepTable(tuple(alpha_bars("scaled_linear", 1000, 0.00085, 0.012)))
ZERO = StepTable((*rescaled(SD.alpha_bar)[:-1], 0.0))
SHORT = StepTable((0.9, 0.0))  # one finite step, then pure noise
TABLES = pytest.mark.parametrize("table", [SD, ZERO, SHORT, StepTable((0.9, 0.4, 0.2))])
TIMES = torch.linspace(0, 1, 3001, dtype=torch.float64)


@TABLES
def test_the_steps_of_the_table_are_exact(table: StepTable) -> None:
    for k in {0, 1, table.steps // 2, table.steps - 1}:
        assert table.alpha(table.time(k)) ** 2 == pytest.approx(table.alpha_bar[k], rel=1e-9, abs=1e-15)


@TABLES
def test_variance_is_preserved_and_the_end_is_clean(table: StepTable) -> None:
    a, s = table.alpha(TIMES), table.sigma(TIMES)
    torch.testing.assert_close(a * a + s * s, torch.ones_like(TIMES))
    assert (table.alpha(1.0), table.sigma(1.0)) == (1.0, 0.0)


@TABLES
def test_floats_and_rows_agree(table: StepTable) -> None:
    for f in (table.alpha, table.sigma, table.d_alpha, table.d_sigma):
        rows = torch.tensor([f(float(t)) for t in TIMES], dtype=torch.float64)
        torch.testing.assert_close(f(TIMES), rows, rtol=1e-12, atol=1e-12)


@TABLES
def test_derivatives_are_those_of_the_coefficients(table: StepTable) -> None:
    # strictly inside the pieces, central differences; their error is h^2 K^2 / 6 relative, 1e-6 for K = 1000
    h = 1e-3 / table.steps
    t = (torch.arange(0, table.steps, max(table.steps // 50, 1)) + 0.37).double() / table.steps
    for f, d in ((table.alpha, table.d_alpha), (table.sigma, table.d_sigma)):
        torch.testing.assert_close((f(t + h) - f(t - h)) / (2 * h), d(t), rtol=1e-4, atol=1e-6)


@TABLES
def test_time_of_lambda_inverts_lambda(table: StepTable) -> None:
    torch.testing.assert_close(table.t_of_lam(table.lam(TIMES)), TIMES, rtol=0, atol=1e-12)
    assert table.t_of_lam(math.inf) == 1.0
    assert table.t_of_lam(table.lam(0.123)) == pytest.approx(0.123, abs=1e-12)


def test_lambda_increases_everywhere() -> None:
    assert bool((SD.lam(TIMES).diff() > 0).all())
    assert bool((ZERO.lam(TIMES).diff() > 0).all())


def test_velocities_are_finite_at_both_ends() -> None:
    for table in (SD, ZERO, SHORT):
        for t in (0.0, 1.0):
            assert math.isfinite(table.d_alpha(t))
            assert math.isfinite(table.d_sigma(t))
    assert ZERO.alpha(0.0) == 0.0
    assert ZERO.lam(0.0) == -math.inf


def test_rescaling_keeps_the_first_step_and_ends_in_pure_noise() -> None:
    bars = rescaled(SD.alpha_bar)
    assert bars[0] == pytest.approx(SD.alpha_bar[0])
    assert bars[-1] == 0.0


def test_tables_that_are_none_are_refused() -> None:
    for bad in ((0.5,), (1.0, 0.5), (0.5, 0.6), (0.5, -0.1)):
        with pytest.raises(OptionError, match="strictly decreasing"):
            StepTable(bad)
    with pytest.raises(UnknownOptionError, match="scaled_linear"):
        alpha_bars("scaled", 10, 0.1, 0.2)
    with pytest.raises(OptionError, match="at least 2 steps"):
        alpha_bars("linear", 1, 0.1, 0.2)
