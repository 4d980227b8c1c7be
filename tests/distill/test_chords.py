"""Matching chords, and what a field that was trained on them remembers."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import rheos
from rheos.core import Context, Draws, Field, GaussianMixtureField, config
from rheos.core.draws import row_seeds
from rheos.core.errors import ConditionError, OptionError, ShapeError, TimeError, UnknownOptionError
from rheos.core.premetrics import MSE, Perceptual
from rheos.distill import ChordMatching, SegmentRecipe, chord_errors, chord_loss, generate_segments
from rheos.nets import MLP
from rheos.sample import Grid, draw, draw_solution, grid_for, solve
from rheos.train import Options, fit

TIMES = (0.0, 0.25, 0.75, 1.0)
QUICK = Options(batch=16, sample_every=0, save_every=0)


@pytest.fixture
def flow():
    return GaussianMixtureField(means=[[-2.0, 0.0], [2.0, 0.0]], stds=[0.5, 0.5])


@pytest.fixture
def store(flow, tmp_path):
    return generate_segments(flow, tmp_path / "s", 8, TIMES, recipe=SegmentRecipe(steps=8))


def test_the_teachers_own_chords_between_neighbours_of_its_fine_grid_cost_nothing(flow, tmp_path):
    store = generate_segments(flow, tmp_path / "s", 16, recipe=SegmentRecipe(steps=20))
    assert max(chord_errors(flow, store)) < 1e-8  # rounding of float32 states, divided by a step of 1/20
    longer = generate_segments(flow, tmp_path / "l", 16, store.times[::4], recipe=SegmentRecipe(steps=20))
    assert max(chord_errors(flow, longer)) > 1e-3


class _Table(nn.Module):
    """An affine map for each time of a grid, so that chords of a few rows can be met exactly."""

    def __init__(self, times, maps):
        super().__init__()
        self.times = torch.tensor(times[:-1], dtype=torch.float64)
        self.maps = nn.Parameter(maps)

    def forward(self, x, t):
        k = (self.times[None] - t[:, None].double()).abs().argmin(1)
        one = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
        return torch.einsum("bi,bij->bj", one, self.maps[k]).to(x.dtype)


def test_where_chords_are_met_exactly_k_euler_steps_reproduce_the_trajectories(tmp_path):
    teacher = GaussianMixtureField(means=torch.randn(3, 8).tolist(), stds=[0.3] * 3)
    store = generate_segments(teacher, tmp_path / "s", 8, TIMES, recipe=SegmentRecipe(steps=8))
    maps = []
    for k, (a, b) in enumerate(pairwise(TIMES)):
        x, y = store.states(k).double(), store.states(k + 1).double()
        maps.append(torch.linalg.lstsq(torch.cat([x, torch.ones(8, 1).double()], 1), (y - x) / (b - a)).solution)
    met = Field(_Table(TIMES, torch.stack(maps)), shape=(8,), times=TIMES)
    assert max(chord_errors(met, store)) < 1e-8  # float32 states
    walk = draw_solution(met, 8, source=store.states(0).double(), trace=True)
    for k in range(4):
        torch.testing.assert_close(walk.path[k].float(), store.states(k), rtol=0, atol=1e-6)


def test_a_chords_loss_is_the_squared_distance_of_velocity_and_slope(flow):
    x_s, x_t = torch.randn(2, 5, 2, dtype=torch.float64)
    s, t = torch.full((5,), 0.25, dtype=torch.float64), torch.full((5,), 0.75, dtype=torch.float64)
    wanted = (flow(x_s, 0.25) - 2 * (x_t - x_s)).square().sum(1)
    torch.testing.assert_close(chord_loss(flow, x_s, s, x_t, t), wanted)
    with pytest.raises(TimeError, match="lead forwards"):
        chord_loss(flow, x_s, t, x_t, s)
    with pytest.raises(ShapeError, match="ends of one shape"):
        chord_loss(flow, x_s, s, x_t[:, :1], t)


@pytest.mark.parametrize(
    ("positions", "shares"), [(1, {0.0}), (2, {0.0, 0.5}), (4, {0.0, 0.25, 0.5, 0.75}), (None, None)]
)
def test_a_field_is_asked_at_the_shares_of_a_segment_on_the_chord(flow, store, positions, shares):
    batch = store.data().batch(torch.arange(24))
    objective = ChordMatching.of(store, positions)
    plan = objective.prepare(flow, batch.x, batch.cond, Draws(row_seeds(0, 24)))
    s, t, x_s = (batch.cond[n] for n in ("s", "t", "x_s"))
    share = (plan.t[:, 0] - s) / (t - s)
    if shares is None:
        assert len(share.unique()) == 24
    else:
        assert {round(float(v), 9) for v in share} == shares
    torch.testing.assert_close(plan.x0, x_s + share[:, None].float() * (batch.x - x_s))
    torch.testing.assert_close(plan.x1, (batch.x - x_s) / (t - s)[:, None].float())
    assert torch.equal(plan.t[:, 1], t)
    assert float(plan.weight.sum()) == pytest.approx(1.0)


def test_the_loss_at_starts_is_that_of_the_formula_and_slices_agree(flow, store):
    batch = store.data().batch(torch.arange(24))
    objective = ChordMatching.of(store)
    plan = objective.prepare(flow, batch.x, batch.cond, Draws(row_seeds(0, 24)))
    rows = objective.loss(flow, plan).rows
    told = chord_loss(flow, batch.cond["x_s"], batch.cond["s"], batch.x, batch.cond["t"])
    torch.testing.assert_close(rows, told / 2)  # MSE is a mean over two numbers
    parts = [objective.loss(flow, plan.slice(a, a + 8)) for a in (0, 8, 16)]
    assert float(sum(p.value for p in parts)) == pytest.approx(float(rows.mean()), rel=1e-6)


def test_a_perceptual_loss_compares_ends_so_a_steps_length_counts(flow, store):
    batch = store.data().batch(torch.arange(24))
    velocity, ends = (ChordMatching.of(store, premetric=m) for m in (MSE(), Perceptual(lambda x: x)))
    plan = velocity.prepare(flow, batch.x, batch.cond, Draws(row_seeds(0, 24)))
    a, b = velocity.loss(flow, plan).rows, ends.loss(flow, plan).rows
    length = (batch.cond["t"] - batch.cond["s"]).float()
    context = Context(plan.x0, plan.t[:, 0])
    scale = Perceptual(lambda x: x)(torch.ones(1, 2), torch.zeros(1, 2), context)  # of a distance of ones
    torch.testing.assert_close(b, a * length**2 * scale)


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_training_on_chords_brings_the_ends_of_k_steps_to_the_teachers(flow, tmp_path, predicts):
    store = generate_segments(flow, tmp_path / "s", 512, (0.0, 0.5, 1.0), recipe=SegmentRecipe(steps=20))
    torch.manual_seed(0)
    student = Field(MLP(2, hidden=32, depth=2), predicts=predicts, shape=(2,))
    options = Options(batch=128, lr=5e-3, sample_every=0, save_every=0, ema=0.0)
    run = fit(student, ChordMatching.of(store), store.data(), steps=250, options=options, progress=False)
    x = draw(run.field, 256, source=store.states(0)[:256])
    error = (x - store.states(2)[:256]).square().mean()
    bare = draw(flow, 256, steps=(0.0, 0.5, 1.0), solver="euler", source=store.states(0)[:256])
    assert float(error) < 0.3 * float((bare - store.states(2)[:256]).square().mean())


def test_the_run_remembers_its_times_and_refuses_others(store, tmp_path):
    field = Field(MLP(2, hidden=4, depth=1), shape=(2,))
    run = fit(field, ChordMatching.of(store), store.data(), steps=2, out=tmp_path / "run", options=QUICK)
    again = rheos.load(tmp_path / "run").field
    for flow in (run.field, again):
        assert flow.times == TIMES
        assert grid_for(flow, 3) == TIMES
        wanted = solve(flow, draw_solution(flow, 5).source, TIMES, "euler").x
        assert torch.equal(draw(flow, 5, steps=3), wanted)
        assert torch.equal(draw(flow, 5), wanted)
        draw(flow, 5, steps=(0.0, 0.5, 1.0))  # explicit times are taken at their word
        with pytest.raises(OptionError, match=r"made for its own 3 steps at t = 0, 0.25, 0.75, 1, got steps=4"):
            draw(flow, 5, steps=4)
        with pytest.raises(OptionError, match="not for the grid edm"):
            grid_for(flow, Grid("edm"), 3)
        with pytest.raises(OptionError, match="hold their guidance already"):
            draw(flow, 5, guidance=2.0)
    assert again.on("gvp").times is None


def test_another_training_makes_a_field_whole_again(store):
    field = Field(MLP(2, hidden=4, depth=1), shape=(2,))
    run = fit(field, ChordMatching.of(store), store.data(), steps=1, options=QUICK)
    whole = run.field.requires_grad_(True)
    rheos.train.fit(whole, rheos.core.FlowMatching(), rheos.data.load("moons", limit=32), steps=1, options=QUICK)
    assert whole.times is None
    draw(whole, 2, steps=5)


def test_pictures_on_the_way_are_drawn_on_the_fields_own_times(store, tmp_path):
    field = Field(MLP(2, hidden=4, depth=1), shape=(2,))
    fit(field, ChordMatching.of(store), store.data(), steps=2, out=tmp_path / "run", options=Options(batch=16))
    assert (tmp_path / "run" / "samples" / "step_000002.png").exists()


def test_times_of_a_field_are_increasing_and_in_the_unit_interval():
    for bad in ((0.0,), (0.0, 0.5, 0.5), (0.5, 0.0), (0.0, 1.5)):
        with pytest.raises(TimeError, match="at least two increasing times"):
            Field(MLP(2, hidden=4), times=bad)


def test_the_objective_survives_the_trip_through_json():
    one = ChordMatching((0.0, 0.3, 1.0), 2, "huber")
    assert config.load(config.dump(one)) == one
    assert config.load(config.dump(SegmentRecipe(steps=3))) == SegmentRecipe(steps=3)
    assert not one.gaussian
    assert one.calibrate(torch.zeros(1, 2), {}, Draws(row_seeds(0, 1))) is one


def test_bad_options_and_batches_without_segments_are_refused(flow):
    with pytest.raises(OptionError, match="positions must be at least 1"):
        ChordMatching(positions=0)
    with pytest.raises(UnknownOptionError, match="premetric"):
        ChordMatching(premetric="mean")
    with pytest.raises(ConditionError, match="the batch lacks x_s, s, t"):
        ChordMatching().prepare(flow, torch.zeros(2, 2), {}, Draws(row_seeds(0, 2)))
