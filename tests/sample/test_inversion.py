import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from rheos.core import Field
from rheos.core.errors import ConditionError, DataError, OptionError, ShapeError, TimeError, UnknownOptionError
from rheos.metrics import Nfe
from rheos.nets import MLP
from rheos.sample import CFG, SDE, DormandPrince, Grid, draw, solve, solver
from rheos.sample.inversion import FixedPoint, ImplicitEuler, ImplicitMidpoint, invert
from strategies import gaussian, mixture, randn

EXPLICIT = ["euler", "midpoint", "heun", "ralston", "rk3", "rk4"]


def grid(n, a=0.0, b=1.0):
    return tuple(a + (b - a) * k / n for k in range(n + 1))


@pytest.mark.parametrize(
    ("name", "path"), [*((n, "linear") for n in EXPLICIT), ("euler", "gvp"), ("heun", "vp"), ("ddim", "gvp")]
)
def test_a_fixed_point_undoes_the_very_steps_of_the_sampler(name, path):
    field, z = mixture(path), randn(16, 2)
    # steps of 1/50 times a slope of the velocity below 12 (measured on VP) leave less than a fourth a round
    x = draw(field, 16, source=z, steps=50, solver=name)
    back = invert(field, x, steps=50, solver=name, method="fixed-point", iterations=12).x
    torch.testing.assert_close(back, z, rtol=0, atol=1e-6)
    again = draw(field, 16, source=back, steps=50, solver=name)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-6)
    loose = invert(field, x, steps=50, solver="euler" if name == "ddim" else name).x
    assert float((loose - z).abs().max()) > float((back - z).abs().max())


def test_each_iteration_gains_the_factor_of_the_contraction():
    class Turn(nn.Module):  # a rotation: its Lipschitz constant is 2
        def forward(self, x, t):
            return 2 * torch.stack((-x[:, 1], x[:, 0]), 1)

    field, z = Field(Turn()), randn(6, 2)
    x = draw(field, 6, source=z, steps=10, solver="euler")
    errors = [
        float((invert(field, x, steps=10, solver="euler", method="fixed-point", iterations=k).x - z).norm())
        for k in (4, 5, 6)
    ]
    for before, after in pairwise(errors):
        assert after / before == pytest.approx(0.1 * 2, rel=0.1)


def test_implicit_euler_is_the_fixed_point_of_euler():
    field, x = mixture(), 0.5 * randn(8, 2)
    times = grid(20, 1.0, 0.0)
    one = solve(field, x, times, ImplicitEuler(iterations=7))
    two = solve(field, x, times, FixedPoint(forward=solver("euler"), iterations=7))
    torch.testing.assert_close(one.x, two.x, rtol=1e-12, atol=1e-12)
    assert one.calls == two.calls == 140


def test_the_implicit_midpoint_is_its_own_inverse():
    field, z = mixture(), randn(16, 2)
    method = ImplicitMidpoint(iterations=20)
    x = solve(field, z, grid(40), method).x
    back = solve(field, x, grid(40, 1.0, 0.0), method).x
    torch.testing.assert_close(back, z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize(("method", "order"), [(ImplicitEuler(iterations=7), 1), (ImplicitMidpoint(iterations=7), 2)])
def test_implicit_methods_have_their_order(method, order, path):
    field, x = mixture(path), randn(16, 2)
    reference = solve(field, x, grid(300, 0.1, 0.9), "rk4").x
    errors = [float((solve(field, x, grid(n, 0.1, 0.9), method).x - reference).norm()) for n in (160, 320)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    assert method.order == order


def test_implicit_steps_contract_where_explicit_ones_explode():
    class Stiff(nn.Module):
        def forward(self, x, t):
            return -8 * x

    field, x = Field(Stiff()), randn(4, 2)  # |h| L = 0.8: the iteration converges
    end = solve(field, x, grid(10), ImplicitEuler(iterations=80)).x
    torch.testing.assert_close(end, x / 1.8**10, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 3), ("rk3", 3), ("rk4", 5)])
def test_walking_back_returns_with_the_order_of_the_method_and_one_more_where_that_is_even(name, order):
    # the leading error of a step of even order changes its sign with h, so that there and back it cancels
    field, z = gaussian(dim=2, std=0.8), randn(8, 2)
    errors = []
    for n in (40, 80):
        x = draw(field, 8, source=z, steps=n, solver=name)
        errors.append(float((invert(field, x, steps=n, solver=name).x - z).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


def test_the_adaptive_solver_finds_the_exact_latents():
    field = gaussian(dim=2)
    x = field.sample_data(8)
    told = invert(field, x, steps=1, solver=DormandPrince(rtol=1e-8, atol=1e-8))
    torch.testing.assert_close(told.x, field.flow_map(x, 1.0, 0.0), rtol=0, atol=1e-6)


def test_the_trace_begins_with_the_data_and_ends_with_the_latents():
    field, x = mixture(), randn(4, 2)
    for method in ("reversed", "fixed-point"):
        told = invert(field, x, steps=5, solver="euler", method=method, trace=True)
        assert told.path.shape == (6, 4, 2)
        assert torch.equal(told.path[0], x)
        assert torch.equal(told.path[-1], told.x)
        assert told.times == pytest.approx((1.0, 0.8, 0.6, 0.4, 0.2, 0.0))


def test_either_direction_of_the_grid_is_the_sampling_grid():
    field, x = mixture(), randn(4, 2)
    times = (0.0, 0.3, 0.8, 1.0)
    assert torch.equal(invert(field, x, steps=times).x, invert(field, x, steps=times[::-1]).x)


def test_the_walk_begins_where_a_data_head_has_a_velocity():
    class Point(nn.Module):
        def forward(self, x, t):
            return 0.5 * x

    field, x = Field(Point(), predicts="data"), randn(4, 2)
    told = invert(field, x, steps=4)
    assert told.times[0] == field.finite[1]
    undone = invert(field, x, steps=4, solver="euler", method="fixed-point")
    assert undone.times[0] == 1.0  # it asks at the forward step's start alone
    assert undone.x.isfinite().all()
    down = invert(field, x, steps=(1.0, 0.75, 0.5, 0.25, 0.0), solver="euler", method="fixed-point")
    assert torch.equal(down.x, undone.x)


def test_a_data_heads_round_trip_with_heun_ends_with_its_euler_step():
    class Curved(nn.Module):
        def forward(self, x, t):
            return x + 0.3 * (1 - t[:, None]) * x.sin()

    field, z = Field(Curved(), predicts="data"), randn(8, 2)
    x = draw(field, 8, source=z, steps=20, solver="heun")
    back = invert(field, x, steps=20, solver="heun", method="fixed-point", iterations=40).x
    torch.testing.assert_close(back, z, rtol=0, atol=1e-6)


def test_calls_are_those_of_the_network():
    field = Field(MLP(2, hidden=8, classes=2))
    with Nfe(field.net) as nfe:
        assert invert(field, randn(3, 2).float(), steps=6, solver="heun").calls == nfe.calls == 12
        nfe.reset()
        told = invert(
            field, randn(3, 2).float(), steps=6, solver="midpoint", method="fixed-point", iterations=3, guidance=2.0
        )
        assert told.calls == nfe.calls == 36
        assert nfe.rows == 36 * 3 * 2


def test_guidance_and_conditions_are_inverted_as_they_were_drawn():
    field, z = mixture(labels=True), randn(6, 2)
    label = torch.tensor([0, 1, 0, 1, 1, 1])
    for guidance in (1.5, CFG(1.5, interval=(0.2, 0.9))):
        asked = {"steps": 60, "solver": "euler", "label": label, "guidance": guidance}
        x = draw(field, 6, source=z, **asked)
        back = invert(field, x, method="fixed-point", iterations=30, **asked).x
        torch.testing.assert_close(back, z, rtol=0, atol=1e-6)


def test_a_joined_dict_state_is_inverted_too():
    class Decay(nn.Module):
        def forward(self, x, t):
            return {"a": -x["a"], "b": -2 * x["b"]}

    z = {"a": randn(3, 2), "b": randn(3, 1, seed=1)}
    field = Field(Decay())
    x = solve(field, z, grid(10), "heun").x
    back = invert(field, x, steps=10, solver="heun", method="fixed-point", iterations=25).x
    torch.testing.assert_close(back["a"], z["a"], rtol=0, atol=1e-10)
    torch.testing.assert_close(back["b"], z["b"], rtol=0, atol=1e-10)


def test_a_row_does_not_depend_on_its_batch_mates():
    field, x = mixture(), randn(6, 2)
    whole = invert(field, x, steps=10, method="fixed-point").x
    torch.testing.assert_close(
        invert(field, x[4:], steps=10, method="fixed-point").x, whole[4:], rtol=1e-12, atol=1e-12
    )


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [SDE(), DormandPrince(), solver("ab2"), solver("unipc"), ImplicitEuler()])
def test_steps_that_cannot_be_undone_one_by_one_are_refused(method):
    with pytest.raises(OptionError, match="cannot be undone one by one"):
        FixedPoint(forward=method)


@pytest.mark.parametrize("make", [ImplicitEuler, ImplicitMidpoint, FixedPoint])
def test_iterations_are_positive(make):
    with pytest.raises(OptionError, match="iterations must be at least 1, got 0"):
        make(iterations=0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "reverse"}, UnknownOptionError, "did you mean 'reversed'"),
        ({"solver": "huen"}, UnknownOptionError, "did you mean 'heun'"),
        ({"iterations": 3}, OptionError, "iterations belong to method='fixed-point', got 3 with 'reversed'"),
        ({"solver": "sde"}, OptionError, "SDE adds noise, so it has no inverse"),
        ({"solver": "sde", "method": "fixed-point"}, OptionError, "SDE adds noise, so it has no inverse"),
        ({"solver": "dopri5", "method": "fixed-point"}, OptionError, "no explicit one-step method"),
        ({"guidance": 3.0}, OptionError, "guidance 3.0 needs a conditional field"),
        ({"label": 1}, ConditionError, "Unknown condition or option label"),
        ({"steps": 0}, OptionError, "steps must be at least 1, got 0"),
        ({"steps": (0, 500, 1000)}, TimeError, r"Times lie in \[0, 1\]"),
    ],
)
def test_bad_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        invert(mixture(), randn(2, 2), **options)


def test_guidance_that_counts_steps_from_the_noise_is_refused():
    with pytest.raises(OptionError, match="zero_steps=2 counts a sampler's steps from the noise"):
        invert(mixture(labels=True), randn(2, 2), guidance=CFG(2.0, zero_star=True, zero_steps=2), label=1)


def test_a_grid_needs_its_number_of_steps():
    with pytest.raises(OptionError, match="A Grid needs the number of steps too"):
        invert(mixture(), randn(2, 2), steps=Grid())


def test_bad_data_is_refused():
    with pytest.raises(ShapeError, match=r"rows of the shape \(2,\), got \(2, 3\)"):
        invert(mixture(), randn(2, 3))
    free = Field(MLP(2))
    with pytest.raises(ShapeError, match=r"x1 must be floating numbers, got torch\.int64"):
        invert(free, torch.zeros(2, 2, dtype=torch.int64))
    ranged = Field(MLP(2), value_range=(-1.0, 1.0))
    with pytest.raises(DataError, match="x1 holds values from 0 to 255"):
        invert(ranged, torch.tensor([[0.0, 255.0]]))
