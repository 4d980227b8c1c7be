import math

import pytest
import torch
from torch import nn

from rheos.core import Field, row_seeds
from rheos.core.errors import OptionError
from rheos.metrics import Nfe
from rheos.sample import Loop, drive, join, load, save, solve
from rheos.sample.reversible import AsynchronousLeapfrog, ReversibleHeun, turn
from strategies import gaussian, mixture, randn

METHODS = [AsynchronousLeapfrog(), ReversibleHeun()]
each = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def grid(n, a=0.0, b=1.0):
    return tuple(a + (b - a) * k / n for k in range(n + 1))


def there(field, x, method, times):
    loop = Loop(field, method)
    flight, _ = drive(loop, field, loop.begin(x, times, field.complete({}, len(x)), row_seeds(0, len(x))))
    return loop, flight


@each
@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_the_global_order_is_two(method, path):
    field, x = mixture(path), randn(24, 2)
    reference = solve(field, x, grid(400, 0.1, 0.9), "rk4").x
    errors = [
        float((solve(field, x, grid(n, 0.1, 0.9), method).x - reference).square().sum(1).mean().sqrt())
        for n in (160, 320)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.15)


@each
def test_the_exact_flow_of_one_component_is_met_with_order_two(method):
    field, x = gaussian("gvp", dim=2), randn(16, 2)  # on the linear path leapfrog has order 4 for one component
    exact = field.flow_map(x, 0.0, 0.7)
    errors = [float((solve(field, x, grid(n, 0.0, 0.7), method).x - exact).abs().max()) for n in (80, 160)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)
    assert errors[1] < 1e-3


@each
@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("times", [grid(30), (0.0, 0.05, 0.2, 0.3, 0.7, 0.75, 1.0), grid(30, 1.0, 0.0)])
def test_with_all_of_its_state_a_round_trip_is_exact(method, path, times):
    field = mixture(path)
    x = field.sample_data(16) if times[0] == 1.0 else randn(16, 2)
    if path == "vp" and times[0] == 1.0:
        times = (field.finite[1], *times[1:])
    loop, flight = there(field, x, method, times)
    back, _ = drive(loop, field, turn(loop, flight))
    assert float((flight.x - x).abs().max()) > 0.5  # it went somewhere
    # rounding alone: 1e-16 a step, grown by the slope of the flow
    torch.testing.assert_close(back.x, x, rtol=0, atol=1e-12)


@each
def test_turning_twice_walks_there_again(method):
    field, x = mixture(), randn(4, 2)
    loop, flight = there(field, x, method, grid(10))
    back, _ = drive(loop, field, turn(loop, flight))
    again, _ = drive(loop, field, turn(loop, back))
    torch.testing.assert_close(again.x, flight.x, rtol=0, atol=1e-12)


@each
def test_from_x_alone_the_way_back_has_the_error_of_the_method(method):
    field, x = mixture(), randn(16, 2)
    end = solve(field, x, grid(30), method).x
    error = float((solve(field, end, grid(30, 1.0, 0.0), method).x - x).abs().max())
    assert 1e-6 < error < 1.0


@each
def test_a_saved_flight_can_turn(method, tmp_path):
    field, x = mixture(), randn(4, 2)
    loop, flight = there(field, x, method, grid(10))
    save(tmp_path / "there.safetensors", flight)
    back, _ = drive(loop, field, turn(loop, load(tmp_path / "there.safetensors")))
    torch.testing.assert_close(back.x, x, rtol=0, atol=1e-12)


@each
def test_a_step_costs_one_call_and_the_start_one_more(method):
    class Decay(nn.Module):
        def forward(self, x, t):
            return -x

    field = Field(Decay())
    with Nfe(field.net) as nfe:
        assert solve(field, randn(3, 2), grid(7), method).calls == nfe.calls == 8
        loop, flight = there(field, randn(3, 2), method, grid(7))
        _, calls = drive(loop, field, turn(loop, flight))
        assert calls == 7  # the velocity is known


@each
def test_a_clock_a_row_walks_like_a_shared_one(method):
    field, x = mixture(), randn(4, 2)
    loop = Loop(field, method)
    grids = [(0.0, 0.3, 0.6, 1.0), (0.0, 0.5, 1.0)]
    parts = [loop.begin(x[k : k + 2], grids[k // 2], {}, row_seeds(0, 2)) for k in (0, 2)]
    both, _ = drive(loop, field, join(parts))
    alone = [solve(field, x[k : k + 2], grids[k // 2], method).x for k in (0, 2)]
    torch.testing.assert_close(both.x, torch.cat(alone), rtol=1e-12, atol=1e-12)
    with pytest.raises(OptionError, match="Only a flight on one shared clock can turn"):
        turn(loop, both)


@each
def test_dict_states_walk_name_by_name(method):
    class Decay(nn.Module):
        def forward(self, x, t):
            return {"a": -x["a"], "b": -2 * x["b"]}

    start = {"a": randn(3, 2), "b": randn(3, 1, seed=1)}
    end = solve(Field(Decay()), start, grid(200), method).x
    torch.testing.assert_close(end["a"], start["a"] * math.exp(-1), rtol=0, atol=1e-4)
    torch.testing.assert_close(end["b"], start["b"] * math.exp(-2), rtol=0, atol=1e-4)


@each
def test_a_data_head_is_never_asked_where_its_velocity_is_infinite(method):
    class Point(nn.Module):
        def forward(self, x, t):
            assert float(t.max()) < 1
            return torch.full_like(x, 0.5)

    end = solve(Field(Point(), predicts="data"), randn(4, 2), grid(50), method).x
    assert end.isfinite().all()


@each
def test_after_a_move_the_second_variable_begins_anew(method):
    field, x = mixture(), randn(4, 2)
    loop, flight = there(field, x, method, grid(5))
    for restart in (False, True):
        s = loop.solver.start(loop.solver.move(flight.solver, x, restart), 0.2, 0.4)
        while s["stage"] != -1:
            asked = loop.solver.ask(s)
            s = loop.solver.tell(s, field(asked.x, asked.t))
        torch.testing.assert_close(s["x"], solve(field, x, (0.2, 0.4), method).x, rtol=1e-12, atol=1e-12)


@each
def test_errors_grow_where_the_flow_contracts_by_eight_decades(method):
    class Decay(nn.Module):
        def forward(self, x, t):
            return -20 * x

    x = torch.ones(1, 1).double()
    assert float(solve(Field(Decay()), x, grid(80), method).x.abs()) > 1e3
    assert float(solve(Field(Decay()), x, grid(80), "heun").x.abs()) < 1e-6


def test_a_flight_under_way_cannot_turn():
    field, loop = mixture(), Loop(mixture(), ReversibleHeun())
    flight = loop.begin(randn(2, 2), grid(4), {}, row_seeds(0, 2))
    query = loop.ask(flight)
    with pytest.raises(OptionError, match="Only a finished flight can turn, this one is in interval 0 of 4"):
        turn(loop, loop.tell(flight, query, field.answer(query)))
