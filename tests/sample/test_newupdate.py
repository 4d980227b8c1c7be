"""The new update rule: exact where flows are straight, at one with Euler in one step, and never run backwards."""

import pytest
import torch
from torch import nn

from rheos.core import AffinePath, Field, row_seeds
from rheos.core.errors import OptionError, TimeError
from rheos.core.steer import Steer
from rheos.metrics import Nfe
from rheos.sample import Loop, NewUpdate, drive, invert, join, load, save, solve
from strategies import gaussian, mixture, randn

BOTH = [NewUpdate(), NewUpdate(heun=True)]
each = pytest.mark.parametrize("method", BOTH, ids=["euler", "heun"])


def grid(n, a=0.0):
    return (*(a + (1 - a) * k / n for k in range(n)), 1.0)


class Straight(Field):
    """A field whose paths from x0 to 3 x0 + 1 are straight: v = (x1 - x0) as a function of (x_t, t)."""

    def __init__(self, predicts="velocity"):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.p = nn.Parameter(torch.zeros((), dtype=torch.float64))

            def forward(self, x, t):
                t = t.reshape(-1, 1)
                x0 = (x - t) / (1 + 2 * t)  # x_t = (1 - t) x0 + t (3 x0 + 1)
                return 3 * x0 + 1 if predicts == "data" else 2 * x0 + 1

        super().__init__(Net(), predicts=predicts, shape=(2,))


@each
@pytest.mark.parametrize("predicts", ["velocity", "data"])
@pytest.mark.parametrize("times", [grid(1), grid(3), (0.0, 0.1, 0.7, 1.0)])
def test_on_a_straight_flow_it_is_exact_at_every_number_of_steps(method, predicts, times):
    x = randn(5, 2)
    # rounding, and a data head's velocity, which is clipped 1e-5 before the end
    assert torch.allclose(solve(Straight(predicts), x, times, method).x, 3 * x + 1, rtol=0, atol=1e-9)


@each
@pytest.mark.parametrize("path", ["linear", "gvp", "ve"])
def test_with_one_step_it_is_the_data_estimate_at_the_noise(method, path):
    field, x = mixture(path), randn(6, 2)
    x = x * float(field.path.law.sigma(0.0))
    sigma = float(field.path.law.sigma(1.0))  # what noise the path leaves
    want = float(field.path.law.alpha(1.0)) * field.data(x, 0.0) + sigma * x / float(field.path.law.sigma(0.0))
    assert torch.allclose(solve(field, x, grid(1), method).x, want, atol=1e-12)


def test_with_one_step_on_the_linear_path_it_is_eulers():
    field, x = mixture(), randn(6, 2)
    assert torch.allclose(solve(field, x, grid(1), NewUpdate()).x, solve(field, x, grid(1), "euler").x, atol=1e-12)


def test_two_steps_follow_the_formula_with_the_first_noise():
    field, x0 = mixture(), randn(6, 2)
    half = 0.4 * field.data(x0, 0.0) + 0.6 * x0
    want = field.data(half, 0.4)
    assert torch.allclose(solve(field, x0, (0.0, 0.4, 1.0), NewUpdate()).x, want, atol=1e-12)


def test_heuns_form_averages_the_velocities_of_both_ends_and_then_jumps():
    field, x0 = mixture(), randn(6, 2)
    v = field(x0, 0.0)
    mid = 0.4 * (x0 + v) + 0.6 * x0
    mean = 0.5 * (v + field(mid, 0.4))
    half = 0.4 * (x0 + mean) + 0.6 * x0
    assert torch.allclose(solve(field, x0, (0.0, 0.4, 1.0), NewUpdate(heun=True)).x, field.data(half, 0.4), atol=1e-12)


def test_a_trajectory_that_begins_later_has_the_unit_noise_of_its_state():
    field, z = mixture(), randn(6, 2)
    x = solve(field, 0.9 * z, (0.1, 0.5, 1.0), NewUpdate()).x  # as draw begins: noise at the level of the first time
    half = 0.5 * field.data(0.9 * z, 0.1) + 0.5 * z
    assert torch.allclose(x, field.data(half, 0.5), atol=1e-12)


def test_heuns_form_costs_two_evaluations_a_step_and_one_the_last():
    field = Straight()
    for n in (1, 2, 5):
        with Nfe(field.net) as nfe:
            solve(field, randn(2, 2), grid(n), NewUpdate(heun=True))
        assert nfe.calls == 2 * n - 1
    assert [m.evaluations for m in BOTH] == [1, 2]


@each
def test_rows_of_different_grids_joined_go_where_they_go_alone(method):
    field, x = mixture(), randn(3, 2)
    loop = Loop(field, method)
    grids = [grid(4), (0.0, 0.3, 1.0), grid(2)]
    flights = [loop.begin(x[i : i + 1], g, {}, row_seeds(i, 1)) for i, g in enumerate(grids)]
    alone = torch.cat([drive(loop, field, f)[0].x for f in flights])
    assert torch.allclose(drive(loop, field, join(flights))[0].x, alone, atol=1e-12)


@each
def test_a_flight_that_is_saved_half_way_goes_on_to_the_same_end(method, tmp_path):
    field, x = mixture(), randn(3, 2)
    loop = Loop(field, method)
    begun = loop.begin(x, grid(3), {}, row_seeds(0, 3))
    flight = begun
    for _ in range(2):
        query = loop.ask(flight)
        flight = loop.tell(flight, query, field.answer(query))
    save(tmp_path / "flight", flight)
    assert torch.equal(drive(loop, field, load(tmp_path / "flight"))[0].x, drive(loop, field, begun)[0].x)


def test_a_hook_that_moves_the_state_leaves_the_first_noise_alone():
    class Push(Steer):
        def state(self, view, start, x, value):
            return x + 1.0

    field, x0 = mixture(), randn(4, 2)
    half = 0.5 * field.data(x0, 0.0) + 0.5 * x0 + 1.0
    want = field.data(half, 0.5) + 1.0
    assert torch.allclose(solve(field, x0, grid(2), NewUpdate(), steers=[Push()]).x, want, atol=1e-12)


@each
def test_it_refuses_to_run_from_data_to_noise(method):
    field, x = gaussian(dim=2), randn(2, 2)
    with pytest.raises(TimeError, match=r"noise that a trajectory began with.*Invert with Euler"):
        invert(field, x, steps=4, solver=method)
    with pytest.raises(TimeError, match="cannot run from data to noise"):
        solve(field, x, (1.0, 0.5, 0.0), method)
    with pytest.raises(OptionError, match="is no explicit one-step method"):
        invert(field, x, steps=4, solver=method, method="fixed-point")


def test_it_needs_the_coefficients_of_an_affine_path():
    from rheos.core import GeodesicPath, UnitQuaternion

    assert isinstance(NewUpdate().bind(AffinePath(), (0.0, 1.0)), NewUpdate)
    with pytest.raises(OptionError, match="coefficients of an affine path"):
        NewUpdate().bind(GeodesicPath(UnitQuaternion()), (0.0, 1.0))
