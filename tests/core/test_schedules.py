import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheos.core import EDM, GVP, VE, VP, Discrete, Linear
from rheos.core.errors import OptionError, UnknownOptionError
from rheos.core.schedules import schedule
from strategies import SCHEDULES, schedules, times

each = pytest.mark.parametrize("law", SCHEDULES.values(), ids=SCHEDULES)
NAMES = ("alpha", "sigma", "d_alpha", "d_sigma", "lam", "wronskian")


@each
@given(t=times)
def test_derivatives_are_those_of_autograd(law, t):
    if isinstance(law, Discrete):  # away from the table's kinks
        t = (math.floor(t * 999) + 0.37) / 999
    clock = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    for name, slope in (("alpha", "d_alpha"), ("sigma", "d_sigma")):
        value = getattr(law, name)(clock)
        (found,) = torch.autograd.grad(value, clock)
        torch.testing.assert_close(found, getattr(law, slope)(clock).detach() + 0 * found, rtol=1e-9, atol=1e-12)


@each
@given(t=times)
def test_the_wronskian_is_alpha_sigma_times_the_slope_of_lambda(law, t):
    if isinstance(law, Discrete):
        t = (math.floor(t * 999) + 0.37) / 999
    clock = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(law.lam(clock), clock)
    expected = law.alpha(t) * law.sigma(t) * float(slope)
    assert law.wronskian(t) > 0
    assert math.isclose(law.wronskian(t), expected, rel_tol=1e-9)


@each
@given(t=times)
def test_the_inverse_of_lambda_finds_the_time(law, t):
    assert math.isclose(law.t_of_lam(law.lam(t)), t, rel_tol=1e-9, abs_tol=1e-12)


@each
def test_lambda_increases(law):
    grid = torch.linspace(0, 1, 500, dtype=torch.float64)
    assert bool((law.lam(grid).diff() > 0).all())


@given(law=schedules, t=times)
def test_a_float_and_a_tensor_give_one_number(law, t):
    clock = torch.tensor([t, 0.5], dtype=torch.float64)
    for name in NAMES:
        one, many = getattr(law, name)(t), getattr(law, name)(clock)
        assert isinstance(one, float)
        assert many.dtype == torch.float64
        assert math.isclose(one, float(many[0]), rel_tol=1e-12, abs_tol=1e-300)
    lam = law.lam(clock)
    assert math.isclose(law.t_of_lam(float(lam[0])), float(law.t_of_lam(lam)[0]), rel_tol=1e-12)


@pytest.mark.parametrize("name", ["linear", "gvp", "vp", "sub-vp"])
def test_clean_schedules_end_in_the_data_exactly(name):
    law = SCHEDULES[name]
    for one in (1.0, torch.ones(1, dtype=torch.float64)):
        assert law.alpha(one) == 1
        assert law.sigma(one) == 0
        assert law.lam(one) == math.inf


@pytest.mark.parametrize("name", ["linear", "gvp"])
def test_flow_schedules_begin_in_the_noise_exactly(name):
    law = SCHEDULES[name]
    assert (law.alpha(0.0), law.sigma(0.0), law.lam(0.0)) == (0, 1, -math.inf)


@given(t=times)
def test_variance_is_preserved_where_the_name_says_so(t):
    for law in (GVP(), VP(), Discrete.ddpm()):
        assert math.isclose(law.alpha(t) ** 2 + law.sigma(t) ** 2, 1.0, rel_tol=1e-12)


def test_the_constants_of_the_papers_come_out():
    assert math.isclose(VP().alpha(0.0), math.exp(-0.25 * 19.9 - 0.05))  # Song et al. (2021)
    assert math.isclose(VE(0.01, 50.0).sigma(0.0), 50)
    assert math.isclose(VE(0.01, 50.0).sigma(1.0), 0.01)
    karras = [EDM().sigma(k / 4) for k in range(5)]  # Karras et al. (2022), eq. 5
    expected = [(80 ** (1 / 7) + k / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for k in range(5)]
    assert karras == pytest.approx(expected, rel=1e-12)
    assert Linear(0.1).sigma(1.0) == pytest.approx(0.1)


@given(k=st.integers(0, 999))
def test_a_table_is_met_at_its_steps(k):
    law = Discrete.ddpm(1000)
    t = 1 - k / 999
    assert law.index(t) == k
    assert law.index(torch.tensor([t], dtype=torch.float64)).tolist() == [k]
    assert math.isclose(law.alpha(t) ** 2, law.alpha_bar[k], rel_tol=1e-9)


def test_linear_beta_tables_approach_the_continuous_schedule():
    law, limit = Discrete.ddpm(1000, 1e-4, 0.02), VP(0.1, 20.0)
    gap = max(abs(law.alpha(t) - limit.alpha(t)) for t in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99))
    assert gap < 3e-3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Linear(1.0), r"sigma_min must lie in \[0, 1\)"),
        (lambda: VP(2.0, 1.0), "0 < beta_min < beta_max"),
        (lambda: VE(1.0, 0.5), "0 < sigma_min < sigma_max"),
        (lambda: EDM(rho=0.5), "rho must be at least 1"),
        (lambda: EDM(0.0, 1.0), "0 < sigma_min < sigma_max"),
        (lambda: Discrete((0.5,)), "at least two numbers"),
        (lambda: Discrete((0.5, 0.6)), "strictly decreasing"),
        (lambda: Discrete((0.9, math.nan)), "strictly decreasing"),
        (lambda: Discrete.ddpm(1), "at least 2 steps"),
        (lambda: Discrete.ddpm(10, 0.1, 2.0), "beta_max < 1"),
    ],
)
def test_constants_out_of_range_are_refused(make, said):
    with pytest.raises(OptionError, match=said):
        make()


def test_schedules_are_known_by_name_and_pass_through():
    assert schedule("cosine") == GVP()
    assert schedule(VP()) == VP()
    assert schedule("ddpm") == Discrete.ddpm()
    with pytest.raises(UnknownOptionError, match="did you mean 'linear'"):
        schedule("liner")
