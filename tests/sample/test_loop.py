"""The loop with every solver: what they all promise, hooks aside."""

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rheos.core import AffinePath, Field, JointPath, Query, Reply, Steer
from rheos.core.errors import ConditionError, NonFiniteError, OptionError, TimeError
from rheos.sample import SOLVERS, Loop, draw, drive, grid_for, solve, solver
from strategies import SCHEDULES, mixture, randn, untyped

each = pytest.mark.parametrize("name", SOLVERS)
ODE = [name for name in SOLVERS if not solver(name).stochastic]


def uniform(n, a=0.0, b=1.0):
    return [a + (b - a) * k / n for k in range(n + 1)]


class Constant(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.v, self.calls = v, 0

    def forward(self, x, t):
        self.calls += 1
        return self.v.expand_as(x)


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize("n", [1, 3])
def test_a_constant_velocity_is_followed_exactly(name, n):
    v, x = randn(2, seed=1), randn(4, 2)
    field = Field(Constant(v))
    torch.testing.assert_close(solve(field, x, uniform(n), name).x, x + v, rtol=1e-9, atol=1e-9)
    start = 1.0 if solver(name).schedule_free else 0.95  # methods that step in lambda cannot leave t = 1
    there = solve(field, x, uniform(n, start, 0.0), name).x
    torch.testing.assert_close(there, x - start * v, rtol=1e-9, atol=1e-9)


@pytest.mark.untyped  # over a thousand solves, whose types the other tests see
@each
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "v_prediction"])
def test_one_to_four_steps_from_noise_to_data_stay_near_the_data(name, schedule, predicts):
    path = AffinePath(SCHEDULES[schedule])
    field = Field(Head(mixture(path), predicts), path, predicts).double()
    for n in (1, 2, 4):
        grid = grid_for(field, n)
        assert len(grid) == n + 1
        x = randn(8, 2) * path.law.sigma(grid[0])
        end = solve(field, x, grid, name).x
        assert end.isfinite().all()
        if schedule in ("ve", "edm") and name not in ("ddim", "ddpm", "dpm++2m", "dpm++2s", "unipc"):
            continue  # steps in t are no match for a noise that falls by orders of magnitude in each
        if name in ("dpm2s", "dpm3s"):
            continue  # differences of noise are multiplied by e^h, which is huge in a first step from small alpha
        assert float(end.abs().max()) < 30  # the data have a spread of about 2


class Head(nn.Module):
    """The truth about a mixture as one kind of prediction."""

    def __init__(self, truth, kind):
        super().__init__()
        self.truth, self.kind, self.weight = truth, kind, nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        return self.truth.answer(Query(x, t.double(), (t, t), {}, self.kind)).value


@pytest.mark.parametrize("name", [n for n in ODE if solver(n).evaluations + solver(n).extra == 1])
def test_one_step_of_every_one_call_method_is_eulers(name):
    field, x = mixture(), randn(4, 2)
    torch.testing.assert_close(solve(field, x, (0.0, 1.0), name).x, solve(field, x, (0.0, 1.0), "euler").x)
    torch.testing.assert_close(solve(field, x, (0.0, 1.0), name).x, field.data(x, 0.0))


@each
def test_the_count_of_calls_is_that_of_the_network(name):
    net, method = Constant(randn(2)), solver(name)
    solution = solve(Field(net), randn(3, 2), uniform(5, 0.0, 0.9), method)
    assert solution.calls == net.calls
    assert solution.rows == 3 * net.calls
    if not method.adaptive:
        assert solution.calls == 5 * method.evaluations + method.extra


class Idle(Steer):
    """Touches every hook and changes nothing."""

    def branches(self, view, branches):
        return dict(branches)

    def velocity(self, view, values):
        return dict(values)

    def state(self, view, start, end, velocity):
        return end

    def rounds(self, view):
        return 1

    def end(self, view, x):
        return x


@each
def test_an_idle_steer_changes_no_bit(name):
    field, x = mixture(), randn(4, 2)
    plain = solve(field, x, uniform(5), name)
    steered = solve(field, x, uniform(5), name, steers=[Idle(), Idle()])
    assert torch.equal(plain.x, steered.x)
    assert plain.calls == steered.calls


@each
@settings(max_examples=4)
@given(order=st.permutations(range(5)), cut=st.integers(1, 4))
def test_permuting_or_splitting_the_batch_changes_nothing_else(name, order, cut):
    field, x, seeds = mixture(labels=True), randn(5, 2), torch.arange(5)
    label = torch.tensor([0, 1, 2, 1, 0])
    grid = (0.0, 0.1, 0.5, 1.0)

    def run(rows):
        return solve(field, x[rows], grid, name, cond={"label": label[rows]}, seed=seeds[rows]).x

    whole, order = run(torch.arange(5)), torch.tensor(order)
    torch.testing.assert_close(run(order), whole[order], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(run(torch.arange(5)[:cut]), whole[:cut], rtol=1e-13, atol=1e-13)


@each
def test_dtype_is_kept(name):
    for dtype in (torch.float32, torch.float64):
        assert solve(mixture(), randn(2, 2, dtype=dtype), uniform(3), name).x.dtype == dtype


@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "rk4", "ab2", "dopri5"])
def test_two_variables_flow_like_each_alone(name):
    a, b = mixture("linear"), mixture("gvp")

    class Both(nn.Module):
        def forward(self, x, t):
            t = t.double()
            return {"a": a(x["a"], t), "b": b(x["b"], t)}

    field = Field(Both(), JointPath({"a": a.path, "b": b.path}))
    field._clock = torch.float64
    start = {"a": randn(3, 2), "b": randn(3, 2, seed=1)}
    end = solve(field, start, uniform(4), name).x
    loose = {"rtol": 0, "atol": 1e-3 if name == "dopri5" else 1e-12}  # dopri5 has one step size for both
    torch.testing.assert_close(end["a"], solve(a, start["a"], uniform(4), name).x, **loose)
    torch.testing.assert_close(end["b"], solve(b, start["b"], uniform(4), name).x, **loose)


class Walker(Field):
    """Remembers, a row, how many intervals it has seen, and answers with it."""

    def memory(self, x):
        return torch.zeros(len(x), dtype=torch.float64)

    def answer(self, q):
        assert q.memory is not None
        return Reply((q.memory + 1)[:, None].expand_as(q.x), q.memory + 1)


@pytest.mark.parametrize("name", ["euler", "heun", "rk4", "dopri5"])
def test_memory_is_committed_once_an_interval_whatever_the_stages(name):
    field = Walker(nn.Identity())
    end = solve(field, torch.zeros(2, 1, dtype=torch.float64), (0.0, 0.25, 0.5, 1.0), name).x
    assert end.flatten().tolist() == pytest.approx([0.25 * 1 + 0.25 * 2 + 0.5 * 3] * 2)


def test_branches_have_memories_of_their_own():
    class Twice(Steer):
        def branches(self, view, branches):
            x, cond = branches[()]
            return {(): branches[()], ("far",): type(branches[()])(x + 1, cond)}

        def velocity(self, view, values):
            view.own["gap"] = values[("far",)] - values[()]
            return {(): values[()]}

    class Sums(Field):
        def memory(self, x):
            return torch.zeros_like(x)

        def answer(self, q):
            return Reply(0 * q.x, q.memory + q.x)

    loop = Loop(Sums(nn.Identity()), solver("euler"), (Twice(),))
    field = Sums(nn.Identity())
    flight, _ = drive(loop, field, loop.begin(randn(3, 1), (0.0, 0.5, 1.0), {}, torch.arange(3)))
    assert set(flight.memory) == {(), ("far",)}
    torch.testing.assert_close(flight.memory[("far",)] - flight.memory[()], torch.full((3, 1), 2.0).double())


def test_a_trace_holds_the_state_at_every_time_and_ends_with_the_result():
    field, x = mixture(), randn(3, 2)
    for name in ("euler", "heun", "dopri5", "dpm++2s"):
        grid = (0.0, 0.2, 0.7, 1.0)
        solution = solve(field, x, grid, name, trace=True)
        assert solution.path.shape == (4, 3, 2)
        assert torch.equal(solution.path[0], x)
        assert torch.equal(solution.path[-1], solution.x)
        if name != "dopri5":
            torch.testing.assert_close(solution.path[1], solve(field, x, grid[:2], name).x)
        assert torch.equal(solution.source, x)


@pytest.mark.parametrize("name", [n for n in SOLVERS if not solver(n).adaptive])
def test_the_memory_of_sampling_does_not_grow_with_the_number_of_steps(name):
    class Watching(nn.Module):
        def forward(self, x, t):
            v = -x
            known.extend((weakref.ref(x), weakref.ref(v)))
            alive.append(sum(r() is not None for r in known))
            return v

    most = {}
    for steps in (8, 64):
        known, alive = [], []
        solve(Field(Watching()), randn(4, 5), uniform(steps), name)
        most[steps] = max(alive)
    assert most[64] == most[8] <= 8


def test_a_bad_number_is_reported_with_its_step_time_row_and_origin():
    class Fails(nn.Module):
        def forward(self, x, t):
            bad = (t > 0.4)[:, None] & (torch.arange(len(x)) == 2)[:, None]
            return torch.where(bad, torch.nan, x)

    with pytest.raises(NonFiniteError, match=r"In step 3 of 4, at t = 0.5, the network returned .* in row 2") as caught:
        solve(Field(Fails()), randn(4, 1), uniform(4), "euler")
    assert caught.value.values == {"row": 2, "t": 0.5}
    huge = Field(Constant(torch.full((1,), 1e308, dtype=torch.float64)))
    with pytest.raises(NonFiniteError, match=r"In step 2 of 3, at t = 0.3.*, Euler produced .* in row 0"):
        solve(huge, torch.full((1, 1), 1.2e308, dtype=torch.float64), uniform(3), "euler")


def test_arguments_are_refused_before_any_call():
    net = Constant(randn(2))
    with pytest.raises(ConditionError, match="Unknown condition label"):
        solve(Field(net), randn(2, 2), (0.0, 1.0), cond={"label": torch.zeros(2)})
    with pytest.raises(ConditionError, match="label has 3 rows, the state has 2"):
        solve(mixture(labels=True), randn(2, 2), (0.0, 1.0), cond={"label": torch.zeros(3).long()})
    with pytest.raises(TimeError, match="strictly monotone"):
        solve(Field(net), randn(2, 2), (0.0, 0.0))
    assert net.calls == 0


@pytest.mark.parametrize(
    "times",
    [(0.0, 1000.0), (0.0, 0.6, 0.3), torch.tensor([[0.0, 0.5, 0.2]]).double(), torch.tensor([[0.1, 1.5]]).double()],
    ids=str,
)
def test_a_loop_takes_no_times_that_are_no_grid(times):
    with pytest.raises(TimeError, match=r"\[0, 1\]|monotone"):
        Loop(mixture(), solver("euler")).begin(randn(1, 2), times, {}, torch.tensor([0]))


def test_rows_that_leave_the_data_backwards_are_refused_by_methods_that_cannot():
    with pytest.raises(TimeError, match="there is none at t = 1"):
        Loop(mixture(), solver("ddim")).begin(randn(1, 2), torch.tensor([[1.0, 0.5]]).double(), {}, torch.tensor([0]))


def test_a_source_that_is_no_number_is_blamed_and_not_the_network():
    with pytest.raises(NonFiniteError, match="The source holds a NaN or an infinity in row 1"):
        solve(mixture(), randn(3, 2) * torch.tensor([[1.0], [math.nan], [1.0]]), (0.0, 0.5, 1.0), "heun")


@untyped
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 2.5}, "steps is a number of steps"), ({"steps": "10"}, "steps is a number of steps"),
        ({"solver": type(solver("heun"))}, "got the class RungeKutta"), ({"solver": 3}, "solver is a name or a solver"),
        ({"guidance": "3"}, "guidance is a number or a CFG"), ({"steers": Idle()}, "steers is a list of steers"),
    ],
)  # fmt: skip
def test_options_of_the_wrong_kind_are_named(options, text):
    with pytest.raises(OptionError, match=text):
        draw(mixture(), 2, **options)
