import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheos.core import GVP, AffinePath, Euclidean, GeodesicPath, JointPath, Product, UnitQuaternion
from rheos.core.errors import OptionError, ShapeError, UnknownOptionError
from rheos.core.paths import KINDS
from strategies import SCHEDULES, batches, randn, schedules, times, untyped

each = pytest.mark.parametrize("law", SCHEDULES.values(), ids=SCHEDULES)
PAIRS = list(permutations(KINDS, 2))


def close(a, b, rel=1e-10):
    scale = float(b.abs().max())
    assert float((a - b).abs().max()) <= rel * max(scale, 1e-12)


def clocks(t, rows):
    """One time in the four forms that components accept."""
    return [t, torch.tensor(t, dtype=torch.float64), torch.full((rows,), t, dtype=torch.float64)]


@each
@pytest.mark.parametrize("t", [0.01, 0.3, 0.7, 0.99])
def test_every_kind_of_prediction_becomes_every_other_and_comes_back(law, t):
    path = AffinePath(law, sigma_data=0.7)
    x0, x1 = randn(3, 2, seed=1), randn(3, 2, seed=2)
    for clock in clocks(t, 3):
        s = path.sample(x0, x1, clock)
        for src, dst in PAIRS:
            value, expected = path.target(s, src), path.target(s, dst)
            there = path.convert(value, s.xt, clock, src, dst)
            close(there, expected, rel=1e-9)
            # the way back loses what the way there cancelled, never more than the coefficients say
            close(path.convert(there, s.xt, clock, dst, src), value)


@each
def test_times_by_row_and_by_variable_give_what_single_times_give(law):
    path = AffinePath(law)
    x0, x1, t = (
        randn(2, 3, 4, seed=1),
        randn(2, 3, 4, seed=2),
        torch.tensor([[0.2, 0.5, 0.9], [0.1, 0.6, 0.4]]).double(),
    )
    s = path.sample(x0, x1, t)
    data = path.convert(s.u, s.xt, t, "velocity", "data")
    for i in range(2):
        for j in range(3):
            one = path.sample(x0[i, j], x1[i, j], float(t[i, j]))
            close(s.xt[i, j], one.xt, 1e-12)
            close(s.u[i, j], one.u, 1e-12)
            close(data[i, j], x1[i, j], 1e-9)


@each
@given(t=times)
def test_the_velocity_is_the_slope_of_the_path(law, t):
    if law is SCHEDULES["ddpm"]:
        t = (math.floor(t * 999) + 0.37) / 999
    path, x0, x1 = AffinePath(law), randn(2, seed=1), randn(2, seed=2)
    _, slope = torch.func.jvp(
        lambda c: path.sample(x0, x1, c).xt,
        (torch.tensor(t, dtype=torch.float64),),
        (torch.ones((), dtype=torch.float64),),
    )
    close(path.sample(x0, x1, t).u, slope, 1e-8)


@given(x=batches(), t=times)
def test_on_the_linear_path_the_algebra_is_the_usual_one(x, t):
    path, v = AffinePath(), x.cos()
    close(path.convert(v, x, t, "velocity", "data"), x + (1 - t) * v, 1e-12)
    close(path.convert(v, x, t, "velocity", "noise"), x - t * v, 1e-12)
    close(path.convert(v, x, t, "velocity", "score"), (t * v - x) / (1 - t), 1e-9)


@given(x0=batches(), t=times)
def test_on_the_gvp_path_the_velocity_is_minus_half_pi_times_the_v_prediction(x0, t):
    path = AffinePath(GVP())
    s = path.sample(x0, x0.sin(), t)
    close(-math.pi / 2 * path.convert(s.u, s.xt, t, "velocity", "v_prediction"), s.u, 1e-9)


@given(law=schedules, t=times, x=batches())
def test_the_edm_network_is_preconditioned_as_its_paper_says(law, t, x):
    path, f = AffinePath(law, sigma_data=0.6), x.cos()
    noise, scaled = law.sigma(t) / law.alpha(t), x / law.alpha(t)
    skip = 0.6**2 / (noise**2 + 0.6**2)
    out = noise * 0.6 / math.sqrt(noise**2 + 0.6**2)
    close(path.convert(f, x, t, "edm", "data"), skip * scaled + out * f, 1e-9)


@given(law=schedules, t=st.floats(0.05, 0.95), x=batches())
def test_losses_on_different_kinds_differ_by_the_known_factors(law, t, x):
    path, d = AffinePath(law), law.wronskian(t)
    a, b = x.cos(), x.sin()  # two predictions of the velocity at one state

    def gap(kind):
        return (path.convert(a, x, t, "velocity", kind) - path.convert(b, x, t, "velocity", kind)).square().sum()

    alpha, sigma = law.alpha(t), law.sigma(t)
    for kind, factor in (("data", d / sigma), ("noise", d / alpha), ("score", sigma * d / alpha)):
        close(factor**2 * gap(kind), gap("velocity"), 1e-6)


@pytest.mark.parametrize("clock", [1.0, torch.ones(3, dtype=torch.float64)])
def test_where_the_slope_of_sigma_is_infinite_the_state_is_the_data(clock):
    path, x = AffinePath("vp"), randn(3, 2)
    assert path.steep
    assert torch.equal(path.convert(x.cos(), x, clock, "velocity", "data"), x)
    assert torch.equal(path.convert(x.cos(), x, clock, "velocity", "noise"), torch.zeros(3, 2))
    assert path.finite == (0.0, 1 - 1e-5)


@given(law=schedules, start=st.floats(0.1, 0.99), share=st.floats(0.0, 1.0), rows=st.booleans())
def test_noising_back_keeps_the_marginal(law, start, share, rows):
    path, end = AffinePath(law), 0.01 + share * (start - 0.01)
    one = torch.ones(1, 1, dtype=torch.float64)
    times_ = (torch.tensor([start]).double(), torch.tensor([end]).double()) if rows else (start, end)
    ratio = float(path.renoise(one, *times_, 0 * one))
    spread = float(path.renoise(0 * one, *times_, one))
    assert math.isclose(ratio * law.alpha(float(times_[0])), law.alpha(float(times_[1])), rel_tol=1e-9)
    variance = (ratio * law.sigma(float(times_[0]))) ** 2 + spread**2
    assert math.isclose(variance, law.sigma(float(times_[1])) ** 2, rel_tol=1e-6)


def test_a_dict_state_may_have_a_time_each():
    path, x0, x1 = (
        AffinePath(),
        {n: randn(2, 3, seed=k) for k, n in enumerate("ab")},
        {n: randn(2, 3, seed=9) for n in "ab"},
    )
    t = {"a": 0.2, "b": torch.tensor([0.5, 0.9]).double()}
    s = path.sample(x0, x1, t)
    for n in "ab":
        alone = path.sample(x0[n], x1[n], t[n])
        close(s.xt[n], alone.xt, 1e-14)
        close(path.convert(s.u, s.xt, t, "velocity", "data")[n], x1[n])


def rotations(n, seed):
    return torch.nn.functional.normalize(randn(n, 2, 4, seed=seed), dim=-1)


@given(t=st.floats(0.0, 1.0))
def test_a_geodesic_goes_at_constant_speed_and_its_velocity_finds_the_data(t):
    path, x0, x1 = GeodesicPath(UnitQuaternion()), rotations(4, 1), rotations(4, 2)
    s = path.sample(x0, x1, t)
    whole = path.space.distance(x0, x1)
    torch.testing.assert_close(path.space.distance(x0, s.xt), t * whole, rtol=1e-7, atol=1e-7)
    if t < 0.999:
        data = path.convert(s.u, s.xt, t, "velocity", "data")
        assert float(path.space.distance(data, x1).max()) < 1e-6
        torch.testing.assert_close(path.convert(data, s.xt, t, "data", "velocity"), s.u, rtol=1e-5, atol=1e-5)
    assert torch.equal(path.target(s, "data"), x1)
    assert torch.equal(path.target(s, "velocity"), s.u)


def test_a_joint_path_is_each_variables_own():
    parts = {"picture": AffinePath("linear"), "frame": GeodesicPath(UnitQuaternion()), "mask": AffinePath("gvp")}
    joint = JointPath(parts)
    x0 = {"picture": randn(3, 2, seed=1), "frame": rotations(3, 3), "mask": randn(3, seed=5)}
    x1 = {"picture": randn(3, 2, seed=2), "frame": rotations(3, 4), "mask": randn(3, seed=6)}
    t = {"picture": 0.3, "frame": 0.6, "mask": torch.tensor([0.1, 0.5, 0.9]).double()}
    s = joint.sample(x0, x1, t)
    data = joint.convert(s.u, s.xt, t, "velocity", "data")
    for n, p in parts.items():
        assert torch.equal(s.xt[n], p.sample(x0[n], x1[n], t[n]).xt)
        torch.testing.assert_close(data[n].abs(), x1[n].abs(), rtol=1e-6, atol=1e-6)  # q and -q are one rotation
        assert torch.equal(joint.target(s, "data")[n], x1[n])
    assert not joint.flat
    assert joint.space == Product({n: p.space for n, p in parts.items()})
    flat = JointPath({"a": AffinePath("linear"), "b": AffinePath("vp")})
    assert flat.flat
    assert flat.space == Euclidean()
    assert flat.finite == (0.0, 1 - 1e-5)
    x = {"a": randn(2, 1), "b": randn(2, 1)}
    back = flat.renoise(x, 0.8, 0.2, x)
    for n, p in flat.paths.items():
        assert torch.equal(back[n], p.renoise(x[n], 0.8, 0.2, x[n]))


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: AffinePath("liner"), UnknownOptionError, "did you mean 'linear'"),
        (lambda: AffinePath(sigma_data=0.0), OptionError, "sigma_data must be positive and finite, got 0"),
        (lambda: JointPath({}), OptionError, "at least one part"),
        pytest.param(
            lambda: AffinePath().convert(randn(1), randn(1), 0.5, "velocity", "dat"),
            UnknownOptionError,
            "mean 'data'",
            marks=untyped,
        ),
        (
            lambda: AffinePath().sample(randn(2, 1), randn(2, 3), 0.5),
            ShapeError,
            r"one shape, got \(2, 1\) and \(2, 3\)",
        ),
        (lambda: AffinePath().sample({"a": randn(2)}, randn(2), 0.5), ShapeError, "dicts with the same names"),
        (lambda: AffinePath().convert(randn(2), randn(2), {"a": 0.5}, "velocity", "data"), ShapeError, "a tensor"),
        (
            lambda: GeodesicPath(UnitQuaternion()).convert(randn(2, 4), randn(2, 4), 0.5, "score", "data"),
            UnknownOptionError,
            "src 'score' is unknown.*velocity, data",
        ),
        (
            lambda: GeodesicPath(UnitQuaternion()).renoise(randn(2, 4), 0.5, 0.2, randn(2, 4)),
            OptionError,
            "GeodesicPath cannot noise a state back",
        ),
        (
            lambda: JointPath({"a": AffinePath()}).sample({"b": randn(2)}, {"b": randn(2)}, 0.5),
            ShapeError,
            r"joins \['a'\], the state has \['b'\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()
