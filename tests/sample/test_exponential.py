import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rheos.core import AffinePath, Field
from rheos.core.errors import OptionError, TimeError
from rheos.sample import DDIM, DEIS, IPNDM, DPMSinglestep, DPMSolver, UniPC, solve
from strategies import CLEAN, SCHEDULES, gaussian, grids, mixture, randn, schedules

EXPONENTIAL = {
    "ddim": DDIM(),
    "2m": DPMSolver(),
    "3m": DPMSolver(order=3),
    "3m of noise": DPMSolver(order=3, estimates="noise"),
    "2s": DPMSinglestep(),
    "3s": DPMSinglestep(order=3),
    "3s of noise": DPMSinglestep(order=3, estimates="noise"),
    "unipc-1": UniPC(order=1),
    "unipc-2": UniPC(),
    "unipc-3": UniPC(order=3),
    "deis": DEIS(),
    "ipndm": IPNDM(),
}


@given(grid=grids(8), back=st.booleans())
def test_ddim_is_euler_on_the_linear_path(grid, back):
    field, x = mixture(), randn(5, 2)
    times = [0.9 * t + 0.01 for t in grid[::-1]] if back else grid
    a, b = solve(field, x, times, "ddim").x, solve(field, x, times, "euler").x
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@given(law=schedules, grid=grids(4), name=st.sampled_from(sorted(EXPONENTIAL)))
def test_a_constant_data_estimate_is_reached_exactly_in_any_number_of_steps(law, grid, name):
    target = randn(4, 2, seed=1)
    net = nn.Sequential()
    net.forward = lambda x, t: target
    path = AffinePath(law)
    noise = randn(4, 2)
    start = path.sample(noise, target, 0.0).xt
    end = solve(Field(net, path, "data"), start, grid, EXPONENTIAL[name]).x
    torch.testing.assert_close(end, path.sample(noise, target, 1.0).xt, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", CLEAN)
@pytest.mark.parametrize(
    "name", sorted(set(EXPONENTIAL) - {"deis", "ipndm"})
)  # in rho the last step is a step like any
def test_the_last_step_returns_the_last_data_estimate_bit_for_bit(schedule, name):
    said = []
    net = nn.Sequential()
    net.forward = lambda x, t: said.append(torch.tanh(x + t[:, None].to(x))) or said[-1]
    field = Field(net, AffinePath(SCHEDULES[schedule]), "data")
    end = solve(field, randn(4, 2), (0.0, 0.3, 0.7, 1.0), EXPONENTIAL[name]).x
    assert torch.equal(end, said[-1])


def test_2m_is_the_formula_of_its_paper():
    field, x, law = mixture("gvp"), randn(4, 2), AffinePath("gvp").law
    times = (0.2, 0.35, 0.6, 0.8)
    y, last, h_last = x, None, None
    for t, end in itertools.pairwise(times):
        h = law.lam(end) - law.lam(t)
        m = field.data(y, t)
        d = m if last is None else m + h / (2 * h_last) * (m - last)
        y = law.sigma(end) / law.sigma(t) * y + law.alpha(end) * (1 - math.exp(-h)) * d
        last, h_last = m, h
    torch.testing.assert_close(solve(field, x, times, "dpm++2m").x, y, rtol=1e-12, atol=1e-12)


def test_2s_is_the_formula_of_its_paper():
    field, x, law = mixture("vp"), randn(4, 2), AffinePath("vp").law
    t, end = 0.3, 0.7
    h = law.lam(end) - law.lam(t)
    middle = law.t_of_lam(law.lam(t) + h / 2)
    u = law.sigma(middle) / law.sigma(t) * x + law.alpha(middle) * (1 - math.exp(-h / 2)) * field.data(x, t)
    y = law.sigma(end) / law.sigma(t) * x + law.alpha(end) * (1 - math.exp(-h)) * field.data(u, middle)
    torch.testing.assert_close(solve(field, x, (t, end), "dpm++2s").x, y, rtol=1e-12, atol=1e-12)


@given(law=st.sampled_from(list(SCHEDULES.values())), t=st.floats(0.05, 0.5), gap=st.floats(0.05, 0.4))
def test_ancestral_jumps_are_those_of_the_posterior(law, t, gap):
    """With eta = 1 the step draws from p(x_end | x_t, x1), known in closed form."""
    path, end = AffinePath(law), t + gap
    method = DDIM(eta=1.0).bind(path, (0.0, 1.0))
    x, x1 = randn(3, 1), randn(3, 1, seed=1)
    mean, std = method.jump(method.start(method.init(x), t, end), x1)
    a, s, b, r = law.alpha(t), law.sigma(t), law.alpha(end), law.sigma(end)
    # x_t = (a / b) x_end + sqrt(s^2 - (a r / b)^2) z with x_end ~ N(b x1, r^2): a product of two Gaussians
    back, spread2 = a / b, s * s - (a * r / b) ** 2
    variance = 1 / (1 / r**2 + back**2 / spread2)
    expected = variance * (b * x1 / r**2 + back * x / spread2)
    torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-6)
    assert math.isclose(std**2, variance, rel_tol=1e-6)


@pytest.mark.parametrize("eta", [1e-3, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_jump_spends_no_more_noise_than_there_is(schedule, eta):
    law = SCHEDULES[schedule]
    method = DDIM(eta=eta).bind(AffinePath(law), (0.0, 1.0))
    for t, end in ((0.0, 1e-3), (0.0, 0.5), (0.3, 0.3 + 1e-9), (0.5, 1.0), (0.9999, 1.0)):
        mean, std = method.jump(
            method.start(method.init(torch.ones(1, 1).double()), t, end), torch.zeros(1, 1).double()
        )
        assert mean.isfinite().all()
        assert 0 <= std <= law.sigma(end)


def test_noise_enters_by_row_seed():
    field, x = gaussian(), randn(4, 1)
    grid = [k / 10 for k in range(11)]
    a = solve(field, x, grid, "ddpm", seed=3).x
    assert not torch.allclose(a, solve(field, x, grid, "ddpm", seed=4).x)
    assert torch.equal(a, solve(field, x, grid, "ddpm", seed=3).x)


def test_an_eta_outside_the_unit_interval_is_refused():
    with pytest.raises(OptionError, match=r"eta must lie in \[0, 1\], got 1.5"):
        DDIM(eta=1.5)


@pytest.mark.parametrize("method", EXPONENTIAL.values(), ids=EXPONENTIAL)
def test_inversion_from_the_data_itself_is_refused_with_a_way_out(method):
    with pytest.raises(TimeError, match=r"there is none at t = 1\. Begin the inversion at 1 - 1e-3, or use"):
        solve(mixture(), randn(2, 2), (1.0, 0.5), method)
    assert solve(mixture(), randn(2, 2), (1 - 1e-3, 0.5), method).x.isfinite().all()


def test_inversion_with_noise_is_refused():
    with pytest.raises(TimeError, match="inversion needs eta = 0"):
        solve(mixture(), randn(2, 2), (0.9, 0.5), DDIM(eta=0.5))
