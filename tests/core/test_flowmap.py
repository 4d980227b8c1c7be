"""The identities of flow maps hold for the exact map of a Gaussian, by automatic differentiation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rheos.core import (
    AffinePath,
    FlowMap,
    FlowMapField,
    GaussianMixtureField,
    GeodesicPath,
    Query,
    TransportField,
    UnitQuaternion,
)
from rheos.core.errors import ConditionError, OptionError, TimeError
from rheos.core.flowmap import consistency, ctm_average, eulerian_target, lagrangian_residual, semigroup_residual
from rheos.core.state import expand
from strategies import randn

PATHS = ["linear", "gvp", "vp"]


def truth(path):
    return GaussianMixtureField([[1.5, -0.5]], [[0.3, 1.7]], path=AffinePath(path))


class Exact(nn.Module):
    """The average velocity of a Gaussian's flow; on the diagonal the velocity."""

    def __init__(self, path="linear"):
        super().__init__()
        self.field = truth(path)

    def forward(self, x, s, t):
        apart = (t - s).abs() > 1e-9
        gap = torch.where(apart, t - s, 1.0)
        return torch.where(
            expand(apart, x).bool(), (self.field.flow_map(x, s, t) - x) / expand(gap, x), self.field(x, s.detach())
        )


def average(path):
    """Off the diagonal, where it can be differentiated."""
    field = truth(path)
    return lambda x, s, t: (field.flow_map(x, s, t) - x) / expand(t - s, x)


def clocks(*times):
    return [torch.full((4,), t, dtype=torch.float64) for t in times]


ordered = (
    st.lists(st.floats(0.02, 0.98), min_size=3, max_size=3, unique=True)
    .map(sorted)
    .filter(lambda v: min(v[1] - v[0], v[2] - v[1]) > 1e-2)
)


@pytest.mark.parametrize("path", PATHS)
@given(times=ordered)
def test_the_semigroup_residual_of_the_true_map_vanishes(path, times):
    s, r, t = clocks(*times)
    assert float(semigroup_residual(average(path), randn(4, 2), s, r, t).abs().max()) < 1e-10


@pytest.mark.parametrize("path", PATHS)
@given(times=ordered)
def test_mean_flows_regression_target_is_the_average_velocity(path, times):
    s, _, t = clocks(*times)
    x = randn(4, 2)
    value, target = eulerian_target(average(path), truth(path)(x, s), x, s, t)
    torch.testing.assert_close(target, value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
@given(times=ordered)
def test_the_lagrangian_residual_of_the_true_map_vanishes(path, times):
    s, _, t = clocks(*times)
    residual = lagrangian_residual(average(path), lambda x, t: truth(path)(x, t), randn(4, 2), s, t)
    assert float(residual.abs().max()) < 1e-8


def test_a_wrong_map_leaves_every_residual():
    s, r, t = clocks(0.2, 0.5, 0.8)
    x, field = randn(4, 2), truth("linear")

    def wrong(x, s, t):
        return average("linear")(x, s, t) + expand(t, x)

    assert float(semigroup_residual(wrong, x, s, r, t).abs().min()) > 1e-3
    value, target = eulerian_target(wrong, field(x, s), x, s, t)
    assert float((value - target).abs().min()) > 1e-3
    assert float(lagrangian_residual(wrong, lambda x, t: field(x, t), x, s, t).abs().min()) > 1e-3


@given(s=st.floats(0.0, 0.99))
def test_a_consistency_function_is_constant_along_a_trajectory_and_the_identity_at_its_end(s):
    u, field, x = Exact(), truth("linear"), randn(4, 2)
    (start,) = clocks(s)
    moved = field.flow_map(x, 0.0, s)
    torch.testing.assert_close(consistency(u, moved, start), field.flow_map(x, 0.0, 1.0), rtol=1e-9, atol=1e-9)
    assert torch.equal(consistency(u, x, torch.ones(4, dtype=torch.float64)), x)


@given(s=st.floats(0.0, 0.95), t=st.floats(0.0, 1.0))
def test_ctms_form_of_the_map_gives_the_average_velocity_and_the_data_estimate_on_the_diagonal(s, t):
    u, field, x = Exact(), truth("linear"), randn(4, 2)
    start, end = clocks(s, t)
    jump = FlowMap(u).jump(x, start, end)
    # X = (1 - t) / (1 - s) x + (1 - (1 - t) / (1 - s)) g, solved for g
    keep = (1 - t) / (1 - s)
    if abs(t - s) > 1e-3:
        g = (jump - keep * x) / (1 - keep)
        torch.testing.assert_close(ctm_average(g, x, start), u(x, start, end), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ctm_average(field.data(x, start), x, start), u(x, start, start), rtol=1e-8, atol=1e-8)


def test_one_jump_is_the_solution_of_the_ode_and_queries_are_answered_alike():
    flow, field, x = FlowMap(Exact("gvp"), "gvp"), truth("gvp"), randn(4, 2)
    torch.testing.assert_close(flow.jump(x, 0.1, 0.9), field.flow_map(x, 0.1, 0.9), rtol=1e-12, atol=1e-12)
    span = (0.1, 0.9)
    assert torch.equal(flow.answer(Query(x, 0.1, span, {}, "average")).value, flow(x, 0.1, 0.9))
    assert torch.equal(flow.answer(Query(x, 0.1, span, {}, "velocity")).value, flow(x, 0.1, 0.1))
    with pytest.raises(OptionError, match="answers 'average' and 'velocity', not 'data'"):
        flow.answer(Query(x, 0.1, span, {}, "data"))
    with pytest.raises(OptionError, match="not one a variable"):
        flow(x, {"a": 0.1}, 0.9)


def test_times_are_float32_for_a_float32_state():
    class Sees(nn.Module):
        def forward(self, x, s, t):
            assert (s.dtype, t.dtype, s.shape) == (torch.float32, torch.float32, (3,))
            return x

    FlowMap(Sees())(torch.zeros(3, 2), 0.1, torch.tensor(0.5, dtype=torch.float64))


@pytest.mark.parametrize("path", PATHS)
def test_the_flow_map_as_a_field_is_the_velocity_the_average_and_every_estimate(path):
    field, x = FlowMapField(Double(Exact(path)), path), randn(4, 2)
    torch.testing.assert_close(field(x, 0.4), truth(path)(x, 0.4), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(field.noise(x, 0.4), truth(path).noise(x, 0.4), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(field.jump(x, 0.1, 0.9), truth(path).flow_map(x, 0.1, 0.9), rtol=1e-10, atol=1e-10)
    span = Query(x, 0.1, (0.1, 0.9), {}, "average")
    assert torch.equal(field.answer(span).value, field.average(x, 0.1, 0.9))
    with pytest.raises(OptionError, match="not one a variable"):
        field.average({"a": x}, {"a": 0.1}, {"a": 0.9})


class Double(nn.Module):
    """In float64, which a network without weights does not say."""

    def __init__(self, net):
        super().__init__()
        self.net, self.weight = net, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, s, t):
        return self.net(x, s, t) * self.weight


def test_a_head_of_data_is_ctms_g():
    class Head(nn.Module):
        def forward(self, x, s, t):
            return 3 * x

    field, x = FlowMapField(Head(), predicts="data"), torch.ones(2, 3)
    torch.testing.assert_close(field.average(x, 0.5, 0.9), ctm_average(3 * x, x, torch.full((2,), 0.5)))
    torch.testing.assert_close(field.data(x, 0.5), 3 * x)


def test_a_transport_jumps_to_its_data_estimate_on_any_path():
    class Head(nn.Module):
        def forward(self, x, t):
            return 3 * x

    for path in PATHS:
        field, x = TransportField(Head(), path), torch.ones(2, 3)
        torch.testing.assert_close(field.data(x, 0.25), x + 0.75 * 3 * x)
        a, s = (float(c(0.25)) for c in (field.path.law.alpha, field.path.law.sigma))
        torch.testing.assert_close(field.noise(x, 0.25), (x - a * 3.25 * x) / s)
        torch.testing.assert_close(field.score(x, 0.25), -field.noise(x, 0.25) / s)


def test_jumps_need_a_flat_space():
    with pytest.raises(OptionError, match="FlowMapField jumps along straight lines and needs a flat space"):
        FlowMapField(Exact(), GeodesicPath(UnitQuaternion()))


def test_a_flow_map_checks_times_and_conditions():
    class Zero(torch.nn.Module):
        def forward(self, x, s, t):
            return 0 * x

    flow, x = FlowMap(Zero()), torch.zeros(4, 2)
    with pytest.raises(TimeError, match=r"Times lie in \[0, 1\], got 2.0"):
        flow.jump(x, 0.0, 2.0)
    with pytest.raises(TimeError, match=r"got dtype torch\.int64"):
        flow.jump(x, torch.tensor([0, 0, 0, 0]), 1.0)
    with pytest.raises(TimeError, match=r"got \(3,\)"):
        flow.jump(x, 0.0, torch.rand(3))
    with pytest.raises(ConditionError, match="Unknown condition label"):
        flow.jump(x, 0.0, 1.0, label=torch.zeros(4))
