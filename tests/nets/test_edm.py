import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core import AffinePath, Field
from rheos.core.config import dump
from rheos.core.errors import OptionError, UnknownOptionError
from rheos.core.schedules import Linear, schedule
from rheos.core.tables import Discrete
from rheos.nets import EDM, MLP, Net, UNet

NAMES = ("linear", "cosine", "vp", "sub-vp", "ve", "edm", "ddpm")


def net(name="linear", sigma_data=0.5):
    return EDM(MLP(2, hidden=8, time_features=8), name, sigma_data)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(t=st.floats(0, 1), sigma_data=st.floats(0.1, 10))
def test_the_network_sees_unit_variance_at_every_time(name, t, sigma_data):
    law, clock = schedule(name), torch.tensor([t], dtype=torch.float64)
    scale, _ = net(name, sigma_data).inputs(clock)
    variance = (law.alpha(clock) * sigma_data) ** 2 + law.sigma(clock) ** 2  # of alpha x1 + sigma x0
    torch.testing.assert_close(scale**2 * variance, torch.ones_like(scale), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_level_is_a_quarter_of_the_logarithm_and_finite_at_both_ends(name):
    law, t = schedule(name), torch.linspace(0, 1, 41, dtype=torch.float64)
    _, noise = net(name).inputs(t)
    assert noise.isfinite().all()
    assert (noise.diff() < 0).all()
    torch.testing.assert_close(noise[1:-1], -0.25 * law.lam(t)[1:-1])
    assert noise.abs().max() < 4.1


def test_single_precision_times_do_not_blunt_the_noise_level_near_the_ends():
    t = torch.tensor([1e-6, 0.5, 0.999], dtype=torch.float32)
    _, noise = net().inputs(t)
    torch.testing.assert_close(noise, 0.25 * ((1 - t.double()) / t.double()).log())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_of_the_path_have_finite_values_and_derivatives(dtype):
    one = net().to(dtype)
    x, t = torch.ones(2, 2, dtype=dtype), torch.tensor([0.0, 1.0], dtype=dtype)
    value, slope = torch.func.jvp(one, (x, t), (x, torch.ones_like(t)))
    assert value.isfinite().all()
    assert slope.isfinite().all()
    (back,) = torch.autograd.grad(one(x, t.requires_grad_()).sum(), t)
    assert back.isfinite().all()


def test_the_inner_network_meets_scaled_states_and_noise_levels():
    class Spy(Net):
        def forward(self, x, t, *, taps=(), **cond):
            self.met = (x, t)
            return x

    one = EDM(Spy({}), "linear", sigma_data=2.0)
    x, t = torch.ones(2, 3, 4), torch.tensor([0.25, 0.75])
    one(x, t)
    scale, noise = one.inputs(t)
    torch.testing.assert_close(one.net.met[0], x * scale.float()[:, None, None])
    torch.testing.assert_close(one.net.met[1], noise.float())


@pytest.mark.parametrize("name", ["linear", "cosine", "ve"])
def test_a_network_of_zeros_is_exact_on_gaussian_data(name):
    sigma_data, t = 0.7, torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    inner = UNet(1, width=8, multipliers=(1,), heads=1).double()
    field = Field(EDM(inner, name, sigma_data), AffinePath(name, sigma_data=sigma_data), predicts="edm")
    x = torch.randn(7, 1, 4, 4, dtype=torch.float64)
    law = schedule(name)
    a, s, da, ds = (f(t)[:, None, None, None] for f in (law.alpha, law.sigma, law.d_alpha, law.d_sigma))
    variance, slope = a**2 * sigma_data**2 + s**2, a * da * sigma_data**2 + s * ds
    torch.testing.assert_close(field(x, t), slope / variance * x)  # of N(0, V): v = V' / 2V x


def test_the_description_holds_the_inner_network_and_the_schedule():
    one = EDM(MLP(2, time_features=8), Linear(sigma_min=0.01), 0.3)
    assert one.config == {
        "net": dump(one.net),
        "schedule": {"kind": "Linear", "sigma_min": 0.01},
        "sigma_data": 0.3,
        "clip": 1e-7,
    }
    assert EDM(**one.config).schedule == Linear(sigma_min=0.01)
    table = EDM(MLP(2), Discrete((0.9, 0.5, 0.1)))
    assert EDM(**table.config).schedule == table.schedule


def test_impossible_options_are_refused():
    with pytest.raises(OptionError, match=r"sigma_data must be positive, got 0\.0.*data\.std"):
        EDM(MLP(2), "linear", sigma_data=0.0)
    with pytest.raises(UnknownOptionError, match="schedule 'lineal' is unknown; did you mean 'linear'"):
        EDM(MLP(2), "lineal")
    with pytest.raises(UnknownOptionError, match=r"schedule\.kind 'Lineal' is unknown; did you mean 'Linear'"):
        EDM(MLP(2), {"kind": "Lineal"})


def test_the_noise_level_stops_where_alpha_or_sigma_falls_below_the_clip():
    _, label = EDM(MLP(2), "linear", clip=1e-3).inputs(torch.tensor([0.0, 1e-4, 0.5, 1.0], dtype=torch.float64))
    end = 0.25 * math.log(1e3)
    torch.testing.assert_close(label, torch.tensor([end, end, 0.0, -end], dtype=torch.float64), rtol=1e-4, atol=1e-12)
    for clip in (0.0, 1.0):
        with pytest.raises(OptionError, match=r"clip must lie in \(0, 1\)"):
            EDM(MLP(2), "linear", clip=clip)
