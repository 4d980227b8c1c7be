"""Bellman step sizes: the dynamic programme, the costs it is fed with, and the schedule that it gives."""

import json
import math
from itertools import combinations, pairwise

import pytest
import torch
from torch import nn

from rheos.core import Draws, Field, GaussianMixtureField
from rheos.core.draws import row_seeds
from rheos.core.errors import DataError, OptionError, RunError, ShapeError, TimeError, UnknownOptionError
from rheos.core.premetrics import MSE
from rheos.distill import BellmanCosts, BellmanSchedule, BellmanSearch, bellman_costs
from rheos.distill.bellman import cheapest
from rheos.nets import MLP
from rheos.sample import draw, solve

SMALL = BellmanSearch(anchors=12, rows=20, batch=7)


@pytest.fixture
def flow():
    return GaussianMixtureField(means=[[-2.0, 0.5], [1.5, 0.0]], stds=[0.5, 0.3], weights=[0.3, 0.7])


def random_costs(m, seed=0):
    values = torch.rand(m + 1, m + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values.masked_fill(torch.ones_like(values, dtype=torch.bool).tril(), torch.inf)


def uniform(m):
    return [k / m for k in range(m + 1)]


# --- the dynamic programme ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_path_is_that_of_brute_force_for_every_number_of_steps(seed):
    m = 12
    values = random_costs(m, seed)
    for k in range(1, m + 1):
        every = [(0, *inner, m) for inner in combinations(range(1, m), k - 1)]
        best = min(every, key=lambda path: sum(float(values[i, j]) for i, j in pairwise(path)))
        path, cost = cheapest(values, uniform(m), k)
        assert path == best
        assert cost == pytest.approx(sum(float(values[i, j]) for i, j in pairwise(best)), rel=1e-12)  # order of sums


def test_one_step_is_the_whole_way_and_m_steps_are_all_anchors(flow):
    costs = bellman_costs(flow, SMALL)
    assert costs.best(1).times == (0.0, 1.0)
    assert costs.best(1).cost == float(costs.values[0, -1])
    assert costs.best(12).times == costs.times
    assert costs.best(12).cost == 0.0


@pytest.mark.parametrize(("k", "wanted"), [(2, {6}), (3, {4}), (4, {3}), (5, {2, 3})])
def test_among_equal_paths_the_most_uniform_one_is_taken(k, wanted):
    free = torch.zeros(13, 13, dtype=torch.float64)
    path, cost = cheapest(free, uniform(12), k)
    assert {b - a for a, b in pairwise(path)} == wanted
    assert cost == 0.0


@pytest.mark.parametrize("k", [0, 13, 2.0, True])
def test_a_number_of_steps_outside_one_to_m_is_refused(flow, k):
    with pytest.raises(OptionError, match="from 1 to the 12 steps of the fine grid"):
        bellman_costs(flow, SMALL).best(k)


# --- the costs --------------------------------------------------------------------------------------------------------


class _Constant(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.v = nn.Parameter(torch.tensor([0.7, -1.3], dtype=dtype))

    def forward(self, x, t):
        return self.v.expand_as(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_straight_flow_every_step_costs_nothing_so_even_steps_are_the_best(dtype):
    costs = bellman_costs(Field(_Constant(dtype), shape=(2,)), BellmanSearch(anchors=100, rows=8))
    above = costs.values[torch.ones_like(costs.values, dtype=torch.bool).triu(1)]
    assert float(above.max()) == 0.0  # rounding alone is set to zero
    assert costs.best(4).times == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_costs_are_those_of_the_definition(flow):
    costs = bellman_costs(flow, SMALL)
    seeds = row_seeds(SMALL.seed, SMALL.rows)
    x = [Draws(seeds).normal(torch.empty(20, 2), "source")]
    v = []
    for a, b in pairwise(costs.times):
        v.append(flow(x[-1], a))
        x.append(x[-1] + (b - a) * v[-1])
    for j, k in [(0, 12), (2, 7), (10, 12)]:
        gap = x[k] - x[j] - (costs.times[k] - costs.times[j]) * v[j]
        assert float(costs.values[j, k]) == pytest.approx(float(gap.square().sum(1).mean()), rel=1e-4)  # float32
    below = costs.values[torch.ones_like(costs.values, dtype=torch.bool).tril()]
    assert below.isinf().all()
    assert torch.equal(costs.values.diagonal(1), torch.zeros(12, dtype=torch.float64))


def test_on_a_gaussian_flow_costs_have_a_closed_form_in_the_moments_of_the_noise():
    mean, std = 1.5, 0.4
    flow = GaussianMixtureField(means=[[mean]], stds=[std]).double()
    flow._clock = torch.float64  # states in float64, so that 1e-6 is asked of the formula
    search = BellmanSearch(anchors=20, rows=50)
    costs = bellman_costs(flow, search)
    x0 = Draws(row_seeds(0, 50)).normal(torch.empty(50, 1, dtype=torch.float64), "source").flatten()
    m1, m2 = float(x0.mean()), float(x0.square().mean())
    lines, slopes = [(1.0, 0.0)], []  # x_k = p x_0 + q, v_k = a x_k + b
    for s, t in pairwise(costs.times):
        variance = (s * std) ** 2 + (1 - s) ** 2
        a = (s * std**2 - (1 - s)) / variance
        b = mean - a * s * mean
        p, q = lines[-1]
        slopes.append((a * p, a * q + b))
        lines.append((p + (t - s) * slopes[-1][0], q + (t - s) * slopes[-1][1]))
    for j in range(20):
        for k in range(j + 2, 21):
            h = costs.times[k] - costs.times[j]
            p, q = (lines[k][i] - lines[j][i] - h * slopes[j][i] for i in (0, 1))
            assert float(costs.values[j, k]) == pytest.approx(p * p * m2 + 2 * p * q * m1 + q * q, rel=1e-6, abs=1e-12)


def test_batches_change_nothing(flow):
    a, b = (bellman_costs(flow, BellmanSearch(anchors=12, rows=20, batch=n)) for n in (20, 3))
    torch.testing.assert_close(a.values, b.values, rtol=1e-5, atol=1e-12)  # float32 states


def test_states_twice_as_large_cost_four_times_as_much():
    a, b = (
        bellman_costs(Field(_Turn(scale), shape=(2,)), BellmanSearch(anchors=8, rows=5)).values for scale in (1.0, 2.0)
    )
    part = torch.ones_like(a, dtype=torch.bool).triu(1)
    torch.testing.assert_close(4 * a[part], b[part], rtol=1e-4, atol=1e-12)  # float32


class _Turn(nn.Module):
    """A velocity that no state enters, so that scaling it scales displacements."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x, t):
        return self.scale * torch.stack([(5 * t).sin(), (3 * t).cos()], 1)


def test_a_finer_solver_sees_the_errors_inside_the_grid(flow):
    euler, heun = (bellman_costs(flow, BellmanSearch(anchors=12, rows=20, solver=name)) for name in ("euler", "heun"))
    assert float(euler.values.diagonal(1).max()) == 0.0
    assert float(heun.values.diagonal(1).min()) > 0.0


def test_walking_backwards_from_data_costs_about_the_same(flow):
    images = flow.sample_data(400, seed=3).float()
    forward = bellman_costs(flow, BellmanSearch(anchors=50, rows=400))
    backward = bellman_costs(flow, BellmanSearch(anchors=50), images=images)
    assert backward.times == forward.times
    for k in (2, 4):  # one law, other trajectories and a first-order error of opposite sign
        assert backward.best(k).cost == pytest.approx(forward.best(k).cost, rel=0.25)
    with pytest.raises(ShapeError, match=r"Images have shape \(3,\)"):
        bellman_costs(flow, images=torch.zeros(2, 3))


def test_guidance_bends_the_trajectories_that_are_measured():
    flow = GaussianMixtureField(means=[[-2.0], [2.0]], stds=[0.4, 0.4], labels=[0, 1])
    label = {"label": torch.arange(12) % 2}
    a, b = (bellman_costs(flow, BellmanSearch(anchors=10, rows=12, guidance=w), cond=label) for w in (1.0, 3.0))
    assert not torch.equal(a.values, b.values)
    assert b.best(2).guidance == 3.0
    with pytest.raises(OptionError, match="needs a conditional field"):
        bellman_costs(GaussianMixtureField(means=[[0.0]], stds=[1.0]), BellmanSearch(guidance=2.0))


def test_a_perceptual_cost_looks_at_states_cut_to_the_range():
    field = Field(_Flat(), shape=(1, 8, 8), value_range=(-1.0, 1.0))
    plain = bellman_costs(field, BellmanSearch(anchors=4, rows=3, cost=MSE()))
    assert float(plain.values[0, 4]) > 0
    seen = bellman_costs(field, BellmanSearch(anchors=4, rows=3, cost="digits"))
    assert float(seen.values[0, 4]) > 0
    with pytest.raises(OptionError, match="needs the range"):
        bellman_costs(Field(_Flat(), shape=(1, 8, 8)), BellmanSearch(cost="digits"))
    with pytest.raises(ShapeError, match=r"looks at pictures \(1 or 3, H, W\)"):
        bellman_costs(Field(MLP(2), shape=(2,), value_range=(-1.0, 1.0)), BellmanSearch(cost="digits"))
    with pytest.raises(ShapeError, match="LPIPS looks at colour pictures"):
        bellman_costs(field, BellmanSearch(cost="lpips"))


class _Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x, t):
        return self.w * (3 * t[:, None, None, None]).sin() * x.flip(-1)


@pytest.mark.parametrize(("solver", "why"), [("sde", "draws noise"), ("dopri5", "chooses its own steps")])
def test_a_stochastic_or_adaptive_solver_is_refused(flow, solver, why):
    with pytest.raises(OptionError, match=why):
        bellman_costs(flow, BellmanSearch(solver=solver))


def test_bad_options_are_refused(flow):
    with pytest.raises(OptionError, match="anchors must be at least 1"):
        BellmanSearch(anchors=0)
    with pytest.raises(UnknownOptionError, match="cost 'l3'"):
        BellmanSearch(cost="l3")
    flow.shape = None
    with pytest.raises(OptionError, match="does not know the shape"):
        bellman_costs(flow)


def test_costs_of_another_size_or_with_a_nan_are_refused():
    values = random_costs(4)
    with pytest.raises(ShapeError, match=r"3 steps need costs \(4, 4\), got \(5, 5\)"):
        BellmanCosts(tuple(uniform(3)), values, "", SMALL)
    for bad in (math.nan, -1.0, math.inf):
        values[0, 2] = bad
        with pytest.raises(DataError, match="finite and not negative"):
            BellmanCosts(tuple(uniform(4)), values, "", SMALL)


def test_the_cost_of_given_times_needs_anchors(flow):
    costs = bellman_costs(flow, SMALL)
    assert costs.along(costs.best(3).times) == pytest.approx(costs.best(3).cost)
    assert costs.best(3).cost <= costs.even(3)
    with pytest.raises(TimeError, match=r"0\.3 is none of the 13 anchors"):
        costs.along([0.0, 0.3, 1.0])
    with pytest.raises(TimeError, match="at least two and increase"):
        costs.along([0.5, 0.5])


# --- the schedule ---------------------------------------------------------------------------------------------------


def test_a_schedule_is_a_grid_for_sampling(flow):
    schedule = BellmanSchedule.fit(flow, 3, SMALL)
    x = draw(flow, 6, steps=schedule, solver="euler", seed=4)
    start = Draws(row_seeds(4, 6)).normal(torch.empty(6, 2), "source")
    assert torch.equal(x, solve(flow, start, schedule.times, "euler").x)
    assert sum(schedule.lengths) == pytest.approx(1.0)
    assert (len(schedule), schedule[0], schedule[-1]) == (4, 0.0, 1.0)
    assert [float(t) for t in str(schedule).split(",")] == pytest.approx(list(schedule))


def test_another_scale_of_guidance_than_the_searchs_is_refused_with_the_way_out():
    flow = GaussianMixtureField(means=[[-2.0], [2.0]], stds=[0.4, 0.4], labels=[0, 1])
    label = {"label": torch.tensor([0, 1, 0, 1])}
    schedule = BellmanSchedule.fit(flow, 2, BellmanSearch(anchors=6, rows=4, guidance=2.0), cond=label)
    draw(flow, 2, steps=schedule, guidance=2.0, label=1)
    with pytest.raises(OptionError, match=r"searched with guidance 2, got 1.0.*steps=schedule.times"):
        draw(flow, 2, steps=schedule, label=1)
    draw(flow, 2, steps=schedule.times, label=1)


def test_schedule_and_costs_survive_the_trip_through_their_files(flow, tmp_path):
    costs = bellman_costs(flow, SMALL)
    again = BellmanCosts.load(costs.save(tmp_path / "costs.json"), flow)
    assert torch.equal(again.values, costs.values)
    assert (again.times, again.search, again.teacher) == (costs.times, costs.search, costs.teacher)
    schedule = costs.best(3)
    assert BellmanSchedule.load(schedule.save(tmp_path / "three.json"), flow) == schedule
    schedule.check(flow)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["costs.json", "three.json"]


def test_a_file_of_another_field_is_not_taken_for_this_ones(flow, tmp_path):
    file = bellman_costs(flow, SMALL).save(tmp_path / "costs.json")
    other = GaussianMixtureField(means=[[5.0, 0.0]], stds=[0.5])
    with pytest.raises(RunError, match="belongs to another field"):
        BellmanCosts.load(file, other)
    with pytest.raises(RunError, match="belongs to another field"):
        BellmanCosts.load(file).best(2).check(other)
    assert BellmanCosts.load(file).best(2).times[0] == 0.0  # transfer, on purpose


def test_a_damaged_file_is_named(flow, tmp_path):
    file = bellman_costs(flow, SMALL).save(tmp_path / "costs.json")
    told = json.loads(file.read_text())
    for broken, error, match in [
        ("{", DataError, "cannot be read"),
        (json.dumps({**told, "format": 9}), DataError, "has format 9"),
        (json.dumps({k: v for k, v in told.items() if k != "costs"}), DataError, "lacks costs"),
        (json.dumps({**told, "costs": told["costs"][:-1]}), ShapeError, "another size than its 12 steps"),
    ]:
        file.write_text(broken)
        with pytest.raises(error, match=match):
            BellmanCosts.load(file)
    with pytest.raises(DataError, match="cannot be read"):
        BellmanSchedule.load(tmp_path / "none.json")


def test_anchors_follow_the_shift_and_the_grid_that_are_asked_for():
    field = Field(MLP(2, hidden=4), shape=(2,), shift=3.0)
    assert BellmanSearch(anchors=2).times(field) == (0.0, 0.25, 1.0)
    assert BellmanSearch(grid="0,0.5,1").times(Field(MLP(2, hidden=4), shape=(2,))) == (0.0, 0.5, 1.0)
    edm = BellmanSearch(anchors=6, grid="edm").times(Field(MLP(2, hidden=4), shape=(2,)))
    assert len(edm) == 7
    vp = Field(MLP(2, hidden=4), "vp", "noise", shape=(2,))
    assert BellmanSearch(anchors=5).times(vp)[0] == vp.finite[0]
    assert bellman_costs(vp, BellmanSearch(anchors=5, rows=4)).best(2).times[0] == vp.finite[0]
