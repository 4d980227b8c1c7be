import math

import pytest
import torch
from torch import nn

from rheos.core import AffinePath, Field, GeodesicPath, UnitQuaternion
from rheos.core.errors import ConditionError, NonFiniteError, OptionError, TimeError, UnknownOptionError
from rheos.sample import CFG, SOLVERS, Grid, draw_solution
from rheos.sample.recommend import GRIDS, recommend
from rheos.sample.recommendation import HEAD
from strategies import gaussian, mixture, randn


class Straight(nn.Module):
    def forward(self, x, t):
        return torch.ones_like(x)


class Hole(nn.Module):
    """An expanding flow that is NaN at one time, which no dyadic grid meets."""

    def forward(self, x, t):
        return torch.where(((t - 0.3).abs() < 1e-4)[:, None], math.nan, x)


class Turn(nn.Module):
    """A rotation about one axis that slows down evenly: at time 1 it has turned by half the axis."""

    def forward(self, x, t):
        return (1 - t)[:, None] * torch.tensor([1.0, 0.5, 0.0])


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, t):
        self.calls += 1
        return torch.cos(3 * x) + t[:, None]


def few(field, *budgets, **options):
    return recommend(field, budgets, **{"solvers": ["euler", "heun", "ab2"], "grids": ["uniform", "beta"], **options})


@pytest.fixture(scope="module")
def found():
    return recommend(mixture(), (4, 8, 16), n=32)


def test_errors_are_distances_from_the_exact_flow_first_half_to_choose_second_to_report():
    field, x = gaussian(), randn(10, 1)
    exact = field.flow_map(x, 0.0, 1.0)
    rows = (draw_solution(field, 10, steps=4, solver="euler", source=x).x - exact).abs()[:, 0]
    trial = few(field, 4, n=10, source=x).plainly("euler")
    # the reference is known to 1e-8 or so
    assert trial.chosen_by == pytest.approx(float(rows[:5].quantile(0.5)), rel=1e-6)
    assert trial.error == pytest.approx(float(rows[5:].quantile(0.5)), rel=1e-6)
    assert (trial.low, trial.high) == pytest.approx((float(rows[5:].quantile(0.25)), float(rows[5:].quantile(0.75))))


def test_rows_that_are_measured_have_no_say_in_the_choice():
    field, x = mixture(), randn(24, 2)
    other = torch.cat([x[:12], 3 * randn(12, 2, seed=1)])
    a, b = (few(field, 4, 8, n=24, source=s) for s in (x, other))
    for budget in (4, 8):
        first, second = a.best(budget), b.best(budget)
        assert (first.solver, first.grid, first.chosen_by) == (second.solver, second.grid, second.chosen_by)
        assert first.error != second.error


def test_the_reference_closes_in_with_the_order_of_the_classical_method():
    field, x = gaussian(), randn(16, 1)
    coarse, fine = (few(field, 1, n=16, source=x, reference=k).accuracy for k in (32, 64))
    assert math.log2(coarse / fine) == pytest.approx(4, abs=0.3)  # the next order is 1 / 16 of it


def test_twice_the_calls_halve_the_error_of_euler_and_quarter_that_of_heun():
    found = few(gaussian(), 32, 64, n=16, source=randn(16, 1))
    for solver, order in (("euler", 1), ("heun", 2)):
        a, b = (found.plainly(solver, budget).error for budget in (32, 64))
        assert math.log2(a / b) == pytest.approx(order, abs=0.15)


def test_no_trial_costs_more_than_its_budget_and_calls_are_those_of_the_network():
    net = Counting()
    field = Field(net, shape=(2,))
    found = recommend(field, (3, 7), n=4, reference=2, grids=GRIDS)
    for trial in found.trials:
        assert trial.calls <= 7
        net.calls = 0
        draw_solution(field, 4, steps=trial.grid(trial.steps), solver=trial.solver)
        assert net.calls == trial.calls
    assert {t.calls for t in found.trials if t.solver == "euler"} == {3, 7}


def test_every_solver_is_tried_or_left_out_with_its_reason(found):
    tried = {t.solver for t in found.trials}
    assert tried | set(found.left_out) == set(SOLVERS)
    assert not tried & set(found.left_out)
    assert "adaptive" in found.left_out["dopri5"]
    assert "stochastic" in found.left_out["sde"]


def test_two_names_of_one_solver_are_tried_once_unless_asked_for(monkeypatch):
    monkeypatch.setitem(SOLVERS, "polygon", SOLVERS["euler"])
    found = recommend(mixture(), (1,), n=4, reference=2)
    assert found.left_out["polygon"] == "polygon is another name of a solver that was tried."
    asked = recommend(mixture(), (1,), solvers=["polygon"], n=4, reference=2)
    assert [(t.solver, t.error) for t in asked.trials] == [("euler", e := asked.best().error), ("polygon", e)]


def test_a_larger_budget_is_never_worse_where_the_choice_looks(found):
    best = [found.best(budget).chosen_by for budget in (4, 8, 16)]
    assert best[0] > best[1] > best[2]
    assert found.best() == found.best(16)
    assert found.best(11) == found.best(8)  # nothing was measured between


def test_the_best_is_best_but_for_a_percent(found):
    for budget in (4, 8, 16):
        least = min(t.chosen_by for t in found.trials if t.calls <= budget)
        assert found.best(budget).chosen_by <= 1.01 * least


def test_on_a_straight_flow_one_step_of_euler_is_recommended_because_the_rest_is_rounding():
    for seed in range(4):
        found = few(Field(Straight(), shape=(3,)), 1, 4, n=16, seed=seed)
        best = found.best()
        assert (best.solver, best.steps, best.calls) == ("euler", 1, 1)
        assert best.error <= 2 * found.accuracy
        assert "smaller errors say nothing" in found.sentence()


def test_the_sentence_says_how_many_times_smaller(found):
    best, euler, heun = found.best(8), found.plainly("euler", 8), found.plainly("heun", 8)
    said = found.sentence(8)
    assert f"use {best.solver} on the grid {best.grid} with {best.steps} steps: error {best.error:.3g}" in said
    assert f"{euler.error / best.error:.3g} times smaller than the {euler.error:.3g} of euler" in said
    assert f"the {heun.error:.3g} of heun on the grid uniform" in said
    assert "the 16 that these errors are measured on" in said


def test_a_reference_that_is_too_coarse_is_admitted():
    found = few(mixture(), 16, n=8, reference=1)
    assert "smaller errors say nothing" in found.sentence()


def test_a_combination_that_gives_nan_is_reported_and_never_recommended():
    found = few(Field(Hole(), shape=(2,)), 2, n=4, grids=["uniform", "0,0.3,1"])
    failed = [t for t in found.trials if t.failed]
    assert [(t.solver, str(t.grid)) for t in failed] == [("euler", "0,0.3,1"), ("ab2", "0,0.3,1")]
    assert "at t = 0.3, the network returned a NaN" in failed[0].failed
    assert found.best().grid == Grid()
    assert failed[0].to_dict()["error"] is None
    assert failed == found.shown()[-2:]
    assert "failed" in found.table()


def test_explicit_times_are_tried_where_they_fit():
    found = few(mixture(), 2, 4, n=4, grids=["0,0.2,0.5,1"])
    own = [t for t in found.trials if t.grid.steps]
    assert [(t.solver, t.steps, t.calls) for t in own] == [("euler", 3, 3), ("ab2", 3, 3)]


def test_equal_grids_are_measured_once():
    one = few(mixture(), 1, 2, n=4, solvers=["euler"], grids=["uniform", "beta", "uniform@3", "edm", "karras"])
    assert [str(t.grid) for t in one.trials if t.solver == "euler" and t.steps == 1] == ["uniform"]
    named = [str(t.grid) for t in one.trials if t.solver == "euler" and t.steps == 2]
    assert named == ["uniform", "uniform@3", "edm"]  # of Beta(a, a) the middle is 1/2; karras is edm


def test_batches_change_no_count_and_no_error():
    a, b = (few(mixture(), 4, n=8, batch=batch) for batch in (None, 3))
    for x, y in zip(a.trials, b.trials, strict=True):
        assert x.calls == y.calls
        assert x.error == pytest.approx(y.error, abs=1e-5)  # rounding of float32 in the batch's sums


def test_the_field_s_own_shift_is_the_plain_grid_and_joins_the_texts():
    field = Field(Counting(), shape=(2,), shift=3.0)
    found = few(field, 4, n=4, grids=["uniform", "beta", "beta@1"])
    assert found.plain == Grid(shift=3.0)
    assert {str(t.grid) for t in found.trials} == {"uniform@3", "beta@3", "beta"}
    assert Grid() in {t.grid for t in recommend(field, (4,), solvers=["euler"], n=4).trials}


def test_guidance_and_labels_reach_the_field_and_a_call_may_hold_two_rows():
    field = mixture(labels=True)
    plain, guided, same = (few(field, 4, n=8, label=1, guidance=g).plainly("euler") for g in (None, 3.0, CFG(3.0)))
    assert plain.calls == guided.calls == 4
    assert plain.error != guided.error == same.error


def test_on_a_path_without_a_schedule_its_solvers_are_left_out():
    found = recommend(Field(Turn(), GeodesicPath(UnitQuaternion()), shape=(4,), gaussian=False), (4,), n=4)
    assert found.reference.startswith("midpoint")
    assert {"euler", "midpoint", "heun"} <= {t.solver for t in found.trials}
    assert "affine path" in found.left_out["unipc"]
    # Euler's sum is 1/2 + 1 / (2 N) of the axis: an angle, so the sign of a quaternion plays no part
    assert found.plainly("euler").error == pytest.approx(math.sqrt(1.25 / 3) / 8, rel=1e-4)  # float32


@pytest.mark.parametrize("path", ["gvp", "vp", "edm"])
def test_other_paths_are_measured_with_finite_errors_on_every_grid(path):
    found = recommend(mixture(path), (4,), n=6, solvers=["euler", "dpm++2m"], reference=8)
    assert not [t.failed for t in found.trials if t.failed]
    assert all(math.isfinite(t.error) for t in found.trials)
    assert {t.grid.spacing for t in found.trials} >= {g.split("@")[0] for g in GRIDS}


def test_progress_runs_from_one_to_its_total():
    seen = []
    few(mixture(), 2, 4, n=4, reference=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k, len(seen)) for k in range(1, len(seen) + 1)]


def test_the_table_has_the_best_first_then_the_next_and_plain_euler_and_heun_at_the_end(found):
    lines = [line.split() for line in found.table(8, most=2).splitlines()]
    assert lines[0][:5] == list(HEAD[:5])
    assert lines[1][:4] == list(found.best(8).cells()[:4])
    assert lines[2][:4] == list(next(t for t in found.within(8) if t is not found.best(8)).cells()[:4])
    assert [line[:4] for line in lines[3:]] == [["euler", "uniform", "8", "8"], ["heun", "uniform", "4", "8"]]


def test_curves_are_errors_of_the_reporting_half_against_calls(found):
    lines = found.curves(3)
    calls, errors = lines["euler on uniform"]
    assert calls == [4, 8, 16]
    assert errors == [found.plainly("euler", budget).error for budget in (4, 8, 16)]
    assert lines["the reference's accuracy"] == ([4, 16], [found.accuracy, found.accuracy])
    assert found.best().solver in lines


def test_the_plain_values_hold_every_trial_and_the_best_of_each_budget(found):
    plain = found.to_dict()
    assert len(plain["trials"]) == len(found.trials)
    assert plain["best"]["8"]["sentence"] == found.sentence(8)
    assert plain["best"]["4"]["calls"] <= 4


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"evaluations": ()}, OptionError, r"evaluations are whole numbers of at least 1, got \[\]"),
        ({"evaluations": (4, 0)}, OptionError, "at least 1, got"),
        ({"n": 3}, OptionError, "n must be at least 4, half to choose on"),
        ({"reference": 0}, OptionError, "reference must be at least 1"),
        ({"solvers": ["huen"]}, UnknownOptionError, "did you mean 'heun'"),
        ({"solvers": ["sde"]}, OptionError, "sde is stochastic: it has no fixed number of steps"),
        ({"grids": ["karas"]}, UnknownOptionError, "did you mean 'karras'"),
        ({"grids": ["0,2,1"]}, TimeError, r"lie in \[0, 1\]"),
        ({"steps": 4}, OptionError, "recommend has no option 'steps'"),
        ({"guidance": 2.0}, OptionError, "needs a conditional field"),
        ({"labl": 1}, ConditionError, "Unknown condition or option labl"),
    ],
)
def test_bad_usage_says_what_came_and_what_was_wanted(options, error, said):
    with pytest.raises(error, match=said):
        recommend(mixture(), **{"solvers": ["euler"], "n": 4, **options})


def test_a_solver_asked_for_that_cannot_run_here_is_refused():
    field = Field(Turn(), GeodesicPath(UnitQuaternion()), shape=(4,))
    with pytest.raises(OptionError, match="uses the coefficients of an affine path"):
        recommend(field, (4,), solvers=["dpm++2m"], n=4)


def test_a_field_that_is_nan_everywhere_has_no_reference():
    class Nothing(nn.Module):
        def forward(self, x, t):
            return x * math.nan

    with pytest.raises(NonFiniteError, match="the network returned a NaN"):
        few(Field(Nothing(), AffinePath(), shape=(2,)), 4, n=4)


def test_a_budget_below_everything_measured_is_refused():
    found = few(mixture(), 4, n=4, reference=2)
    with pytest.raises(OptionError, match="at most 3 evaluations; the smallest number is 4"):
        found.best(3)
