"""What the loop owes its hooks."""

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import nn

from rheos.core import Branch, Field, GeodesicPath, Steer, UnitQuaternion
from rheos.core.errors import OptionError, ShapeError, SourceNotGaussianError
from rheos.sample import SOLVERS, DormandPrince, Loop, solve, solver
from rheos.sample.guidance import ClassifierGuidance
from strategies import gaussian, mixture, randn

GRID = (0.0, 0.1, 0.4, 0.7, 1.0)
ODE = [n for n in SOLVERS if not solver(n).stochastic]


@dataclass(frozen=True)
class Notes(Steer):
    """Writes down what it sees at the end of intervals."""

    log: list = field(default_factory=list)

    def state(self, view, start, end, velocity):
        self.log.append((view.i, view.n, view.round, view.span, start, end))
        return end


@pytest.mark.parametrize("name", ODE)
def test_the_state_hook_is_called_once_an_interval_with_its_start_and_end(name):
    notes, mix, x = Notes(), mixture(), randn(3, 2)
    solution = solve(mix, x, GRID, name, steers=[notes], trace=True)
    assert [n[:4] for n in notes.log] == [(k, 4, 0, (GRID[k], GRID[k + 1])) for k in range(4)]
    for k, (*_, start, end) in enumerate(notes.log):
        assert torch.equal(start, solution.path[k])
        assert torch.equal(end, solution.path[k + 1])


@dataclass(frozen=True)
class Nudge(Steer):
    """Moves the state after every interval."""

    by: float = 0.1

    def state(self, view, start, end, velocity):
        return end + self.by * (view.span[1] - view.span[0])


@pytest.mark.parametrize("name", ["euler", "heun", "rk4", "dpm++2s", "dopri5"])
def test_a_moved_state_is_where_the_next_interval_begins(name):
    mix, x = mixture(), randn(3, 2)
    expected = x
    for t, end in itertools.pairwise(GRID):
        expected = solve(mix, expected, (t, end), name).x + 0.1 * (end - t)
    found = solve(mix, x, GRID, name, steers=[Nudge()]).x
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 if name == "dopri5" else 1e-13)


@dataclass(frozen=True)
class TwoPlaces(Steer):
    """Asks for the value at the state and at another one, and returns the difference, as FlowEdit does."""

    shift: float
    kind: ClassVar[str] = "velocity"

    def branches(self, view, branches):
        ((_, b),) = branches.items()
        return {("source",): Branch(b.x + self.shift, b.cond), ("target",): b}

    def velocity(self, view, values):
        return {(): values[("target",)] - values[("source",)]}


@pytest.mark.parametrize("name", ["euler", "heun", "rk4"])
def test_branches_may_stand_at_different_states(name):
    mix, x = mixture(), randn(3, 2)

    class Difference(nn.Module):
        def forward(self, y, t):
            return mix(y, t.double()) - mix(y + 0.5, t.double())

    reference = Field(Difference())
    reference._clock = torch.float64
    found = solve(mix, x, GRID, name, steers=[TwoPlaces(0.5)])
    torch.testing.assert_close(found.x, solve(reference, x, GRID, name).x, rtol=1e-12, atol=1e-12)
    assert found.rows == 2 * found.calls * 3


def test_values_are_converted_at_their_own_branchs_state():
    mix, x = mixture(), randn(3, 2)
    # the steer wants velocities, DDIM asks for data: on the linear path it is Euler all the same
    a = solve(mix, x, GRID, "ddim", steers=[TwoPlaces(0.5)]).x
    torch.testing.assert_close(a, solve(mix, x, GRID, "euler", steers=[TwoPlaces(0.5)]).x, rtol=1e-10, atol=1e-10)


@dataclass(frozen=True)
class Layer(Steer):
    """Doubles every branch and says in which order it was asked."""

    name: str
    log: list

    def branches(self, view, branches):
        self.log.append(("in", self.name))
        return {k: b for n, b in branches.items() for k in (n, (*n, self.name))}

    def velocity(self, view, values):
        self.log.append(("out", self.name))
        return {n: v + values[(*n, self.name)] for n, v in values.items() if not n or n[-1] != self.name}


def test_steers_are_an_onion_branches_expand_inwards_and_values_fold_outwards():
    log, mix, x = [], mixture(), randn(2, 2)
    found = solve(mix, x, (0.0, 1.0), "euler", steers=[Layer("a", log), Layer("b", log)])
    assert log == [("in", "a"), ("in", "b"), ("out", "b"), ("out", "a")]
    assert found.rows == 8
    torch.testing.assert_close(found.x, x + 4 * mix(x, 0.0))


@dataclass(frozen=True)
class Pin(Steer):
    """Replaces the data estimate."""

    value: torch.Tensor

    def clean(self, view, x1):
        assert x1.shape == view.x.shape
        return self.value.expand_as(x1)


@pytest.mark.parametrize("name", [n for n in ODE if n != "reversible-heun"])  # which evaluates at a twin of the state
def test_a_replaced_data_estimate_is_where_the_flow_ends(name):
    value = randn(3, 2, seed=5)
    end = solve(mixture(), randn(3, 2), GRID, name, steers=[Pin(value)]).x
    torch.testing.assert_close(end, value, rtol=0, atol=2e-3 if solver(name).adaptive else 1e-10)


def test_an_unchanged_data_estimate_changes_nothing():
    class Same(Steer):
        def clean(self, view, x1):
            return x1

    mix, x, grid = mixture(), randn(3, 2), (0.0, 0.3, 0.9)
    for name in ("euler", "dpm++2m", "heun"):
        a = solve(mix, x, grid, name, steers=[Same()]).x
        torch.testing.assert_close(a, solve(mix, x, grid, name).x, rtol=1e-12, atol=1e-12)


@dataclass(frozen=True)
class Pull(Steer):
    """Posterior sampling: the data estimate moved along the gradient of a loss on it, through the network."""

    target: torch.Tensor
    strength: float
    differentiates: ClassVar[bool] = True

    def clean(self, view, x1):
        loss = 0.5 * (x1 - self.target).square().sum()
        return x1 - self.strength * view.gradient(loss)


@pytest.mark.parametrize("guided", [False, True])
def test_a_gradient_through_the_network_is_that_of_the_closed_form(guided):
    mix, x, t = gaussian(dim=2), randn(3, 2), 0.6
    target = randn(3, 2, seed=7)
    outer = [Layer("twin", [])] if guided else []
    net = Head(mix)
    flow = Field(net)
    flow._clock = torch.float64
    end = solve(flow, x, (t, 1.0), "ddim", steers=[*outer, Pull(target, 0.3)]).x
    a, c2, s = t, 0.3**2, 1 - t
    gain = a * c2 / (a * a * c2 + s * s) * (2 if guided else 1)  # d x1 / d x; two branches double the estimate
    x1 = mix.data(x, t) * (2 if guided else 1)
    torch.testing.assert_close(end, x1 - 0.3 * gain * (x1 - target), rtol=1e-9, atol=1e-9)
    assert not end.requires_grad


class Head(nn.Module):
    def __init__(self, truth):
        super().__init__()
        self.truth = truth

    def forward(self, x, t):
        return self.truth(x, t.double())


def test_a_gradient_that_was_not_announced_is_refused():
    class Secret(Steer):
        def clean(self, view, x1):
            view.gradient(x1.sum())
            return x1

    with pytest.raises(OptionError, match="declares `differentiates = True`"):
        solve(mixture(), randn(2, 2), GRID, "euler", steers=[Secret()])


@dataclass(frozen=True)
class Repeat(Steer):
    """Walks every interval several times."""

    times: int

    def rounds(self, view):
        return self.times


@pytest.mark.parametrize("name", ["euler", "heun", "dpm++2m", "unipc", "ddpm"])
def test_repeated_intervals_keep_the_marginals(name):
    mix, n = gaussian(mean=1.5, std=0.3), 8000
    start = 0.2 * 1.5 + (0.04 * 0.09 + 0.64) ** 0.5 * randn(n, 1)
    grid = [0.2 + 0.8 * k / 40 for k in range(41)]
    once, thrice = (solve(mix, start, grid, name, steers=s, seed=3) for s in ([], [Repeat(3)]))
    assert thrice.calls == 3 * once.calls
    # standard errors: mean 3.4e-3, deviation 2.4e-3; the first-order methods add their own error
    assert float(thrice.x.mean()) == pytest.approx(1.5, abs=0.012)
    assert float(thrice.x.std()) == pytest.approx(float(once.x.std()), abs=0.03)
    assert torch.corrcoef(torch.cat((once.x, thrice.x), 1).T)[0, 1].abs() < 0.9  # the noise is fresh


def test_rounds_are_counted_and_the_state_hook_sees_each():
    notes = Notes()
    solution = solve(mixture(), randn(2, 2), GRID, "heun", steers=[Repeat(2), notes], trace=True)
    assert [(n[0], n[2]) for n in notes.log] == [(i, r) for i in range(4) for r in (0, 1)]
    assert solution.path.shape[0] == 5


def test_noising_back_needs_a_gaussian_source_and_an_affine_path():
    mix = mixture()
    mix.gaussian = False
    with pytest.raises(SourceNotGaussianError, match="Walk each interval once"):
        solve(mix, randn(2, 2), GRID, "euler", steers=[Repeat(2)])
    sphere = Field(nn.Sequential(), GeodesicPath(UnitQuaternion()))
    sphere.net.forward = lambda x, t: x[..., 1:]
    with pytest.raises(OptionError, match="GeodesicPath cannot noise a state back"):
        solve(sphere, torch.nn.functional.normalize(randn(2, 4)), GRID, "euler", steers=[Repeat(2)])


@dataclass(frozen=True)
class Counter(Steer):
    """Counts, a row, in its own memory, in every hook that may remember."""

    weight: float | torch.Tensor = 1.0

    @property
    def numbers(self):
        return {"weight": self.weight}

    def begin(self, view):
        view.own["count"] = torch.zeros(len(view.x))

    def velocity(self, view, values):
        view.own["count"] = view.own["count"] + view.own["weight"]
        return values

    def end(self, view, x):
        return x * 0 + view.own["count"][:, None]


def test_what_a_steer_remembers_lasts_and_its_numbers_may_differ_by_row():
    end = solve(mixture(), randn(3, 2), GRID, "heun", steers=[Counter(torch.tensor([1.0, 2.0, 3.0]))]).x
    assert end[:, 0].tolist() == [8, 16, 24]
    assert solve(mixture(), randn(3, 2), GRID, "euler", steers=[Counter(2.0)]).x[:, 0].tolist() == [8, 8, 8]
    assert solve(mixture(), randn(3, 2), GRID, "euler", steers=[Counter(torch.tensor([2.0]))]).x.max() == 8


def test_numbers_for_another_count_of_rows_are_refused():
    with pytest.raises(ShapeError, match="Counter has weight for 2 rows, the batch has 3"):
        solve(mixture(), randn(3, 2), GRID, "euler", steers=[Counter(torch.ones(2))])


def test_steers_that_cannot_work_on_a_field_are_refused_at_once():
    class Doubts(Steer):
        fields: ClassVar[tuple[str, ...]] = ("critic",)

    with pytest.raises(
        OptionError, match=r"Doubts needs a second field called 'critic'.*Routed\(field, critic=other\)"
    ):
        Loop(mixture(), solver("euler"), (Doubts(),))
    classifier = ClassifierGuidance(lambda x, t: x.sum(1))
    mix = mixture()
    mix.gaussian = False
    with pytest.raises(SourceNotGaussianError, match="ClassifierGuidance needs a score"):
        Loop(mix, solver("euler"), (classifier,))
    with pytest.raises(OptionError, match="ClassifierGuidance needs a score, so an affine path"):
        Loop(Field(nn.Identity(), GeodesicPath(UnitQuaternion())), solver("euler"), (classifier,))


def test_draws_in_hooks_belong_to_rows():
    class Jitter(Steer):
        def state(self, view, start, end, velocity):
            return end + 0.1 * view.draws.normal(end, "jitter", view.i)

    mix, x = mixture(), randn(4, 2)
    seeds, order = torch.tensor([5, 6, 7, 8]), torch.tensor([2, 0, 3, 1])
    whole = solve(mix, x, GRID, DormandPrince(), steers=[Jitter()], seed=seeds).x
    part = solve(mix, x[order], GRID, DormandPrince(), steers=[Jitter()], seed=seeds[order]).x
    torch.testing.assert_close(part, whole[order], rtol=1e-13, atol=1e-13)
