import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheos.core import AffinePath, GeodesicPath, Jump, UnitQuaternion
from rheos.core.errors import OptionError, SourceNotGaussianError
from rheos.core.solver import DONE, combination, elapsed, times, weighted
from rheos.sample import DDIM, SDE, SOLVERS, DPMSolver, Euler, UniPC, solver
from strategies import gaussian, randn

SPHERE = GeodesicPath(UnitQuaternion())


@given(std=st.floats(1e-3, 10))
def test_the_log_probability_of_a_jump_is_that_of_a_normal_law(std):
    mean, x = randn(5, 2, 3, seed=1), randn(5, 2, 3, seed=2)
    expected = torch.distributions.Normal(mean, std).log_prob(x).flatten(1).sum(1)
    for form in (std, torch.full((5,), std, dtype=torch.float64)):
        torch.testing.assert_close(Jump(mean, form).logprob(x), expected, rtol=1e-12, atol=1e-12)


def test_parts_of_a_dict_add_up_and_steps_without_noise_have_no_density():
    mean = {"a": randn(3, 2, seed=1), "b": randn(3, seed=2)}
    x = {"b": randn(3, seed=3), "a": randn(3, 2, seed=4)}
    std = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    found = Jump(mean, std).logprob(x)
    parts = [Jump(mean[n], std).logprob(x[n]) for n in "ab"]
    torch.testing.assert_close(found, parts[0] + parts[1])
    assert float(found[1]) == 0


def test_the_gradient_of_a_log_probability_is_finite_where_there_is_no_density():
    mean = randn(2, 3).requires_grad_(True)
    Jump(mean, torch.tensor([0.0, 1.0]).double()).logprob(randn(2, 3, seed=1)).sum().backward()
    assert float(mean.grad[0].abs().max()) == 0
    assert float(mean.grad[1].abs().min()) > 0


@pytest.mark.parametrize("method", [SDE(diffusion="constant"), SDE(), SDE(diffusion="sbdm"), DDIM(eta=0.7)], ids=repr)
@pytest.mark.parametrize("rows", [False, True])
def test_tell_is_the_mean_of_its_jump_plus_noise(method, rows):
    bound = method.bind(AffinePath(), (0.0, 1.0))
    t, end = (torch.full((4,), v, dtype=torch.float64) for v in (0.3, 0.5)) if rows else (0.3, 0.5)
    x, z = randn(4, 2, seed=1), randn(4, 2, seed=2)
    s = bound.start(bound.init(x), t, end)
    ask = bound.ask(s)
    value = getattr(gaussian(dim=2), ask.kind if ask.kind == "data" else "forward")(ask.x, ask.t)
    mean, std = bound.jump(s, value)
    after = bound.tell(s, value, z)
    torch.testing.assert_close(after["x"], mean + (std[:, None] if rows else std) * z, rtol=1e-14, atol=1e-14)
    assert after["stage"] == DONE
    assert float(torch.as_tensor(std).min()) > 0


LEADING = [n for n in SOLVERS if solver(n).leads]


@pytest.mark.parametrize("name", LEADING)
def test_a_lead_that_is_the_value_changes_nothing_and_another_one_is_felt(name):
    bound = solver(name).bind(AffinePath(), (0.0, 1.0))

    def step(lead):
        s = bound.start(bound.init(randn(3, 2)), 0.2, 0.4)
        while s["stage"] != DONE:
            value = bound.ask(s).x.cos()
            s = bound.tell(s, value, torch.zeros_like(value), lead(value))
        return s["x"]

    plain = step(lambda value: None)
    assert torch.equal(plain, step(lambda value: value))
    assert not torch.allclose(plain, step(lambda value: value + 1))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_says_what_it_is(name):
    method = solver(name)
    bound = method.bind(AffinePath("gvp"), (0.1, 0.9))
    assert (bound.order, bound.evaluations, bound.stochastic) == (method.order, method.evaluations, method.stochastic)
    assert (bound.path, bound.finite) == (AffinePath("gvp"), (0.1, 0.9))
    assert type(bound) is type(method)
    if not bound.stochastic:
        with pytest.raises(OptionError, match="is deterministic: its steps have no density"):
            bound.jump(bound.init(randn(1, 1)), randn(1, 1))


@pytest.mark.parametrize("method", [DDIM(), DPMSolver(), UniPC(), SDE()], ids=lambda m: type(m).__name__)
def test_exponential_and_stochastic_solvers_need_an_affine_path(method):
    with pytest.raises(OptionError, match=r"coefficients of an affine path.*GeodesicPath.*euler, midpoint, heun"):
        method.bind(SPHERE, (0.0, 1.0))


@pytest.mark.parametrize("name", ["rk3", "rk4", "dopri5", "ab2"])
def test_methods_that_add_vectors_need_a_flat_space(name):
    with pytest.raises(OptionError, match=r"needs a flat space, not UnitQuaternion.*Use euler, midpoint or heun"):
        solver(name).bind(SPHERE, (0.0, 1.0))


def test_noise_needs_a_gaussian_source():
    for name in ("ddpm", "sde"):
        with pytest.raises(SourceNotGaussianError, match="adds noise by the score"):
            solver(name).bind(AffinePath(), (0.0, 1.0), gaussian=False)
    assert solver("ddim").bind(AffinePath(), (0.0, 1.0), gaussian=False) == DDIM()


def test_moving_a_state_keeps_the_history_unless_it_restarts():
    bound = DPMSolver().bind(AffinePath(), (0.0, 1.0))
    s = bound.tell(bound.start(bound.init(randn(2, 1)), 0.2, 0.4), randn(2, 1, seed=1))
    y = randn(2, 1, seed=2)
    assert torch.equal(bound.move(s, y)["past"][0], s["past"][0])
    fresh = bound.move(s, y, restart=True)
    assert fresh["past"] == ()
    assert torch.equal(fresh["x"], y)
    pc = UniPC().bind(AffinePath(), (0.0, 1.0))
    s = pc.tell(pc.start(pc.init(randn(2, 1)), 0.2, 0.4), randn(2, 1, seed=1))
    assert pc.move(s, y)["from"] is None
    assert len(pc.move(s, y)["past"]) == 1


def test_steps_and_weights_work_name_by_name():
    assert elapsed(0.25, 1.0) == 0.75
    assert elapsed({"a": 0.25}, {"a": 1.0}) == {"a": 0.75}
    assert times({"a": 2.0}, 3.0) == {"a": 6.0}
    x, v, w = randn(2, 1), randn(2, 1, seed=1), randn(2, 1, seed=2)
    torch.testing.assert_close(weighted(x, 0.5, (2.0, 0.0), (v, w)), x + v)
    torch.testing.assert_close(combination((0.0, 3.0), (v, w)), 3 * w)
    torch.testing.assert_close(
        combination((2.0, torch.tensor([1.0, 2.0])), (v, w)), 2 * v + w * torch.tensor([[1.0], [2.0]])
    )


def test_euler_is_exact_on_any_geodesic():
    path = SPHERE
    bound = Euler().bind(path, (0.0, 1.0))
    x0, x1 = (torch.nn.functional.normalize(randn(4, 4, seed=k), dim=-1) for k in (1, 2))
    s = bound.init(x0)
    for t, end in ((0.0, 0.4), (0.4, 1.0)):
        s = bound.start(s, t, end)
        s = bound.tell(s, path.convert(x1, s["x"], t, "data", "velocity"))
    assert float(path.space.distance(s["x"], x1).max()) < 1e-7
    assert math.isclose(float(s["x"].norm(dim=-1).max()), 1.0)
