"""The claim `boss`, in small."""

import pytest
import torch

from rheos.claims import boss as claim
from rheos.claims.teacher import bench, train_teacher
from rheos.core import Field
from rheos.nets import MLP


def test_on_the_exact_flow_bellman_steps_end_nearer_than_uniform_ones():
    for uniform, best in claim.exact_errors((2, 3), seed=0).values():
        assert best < uniform


def test_a_short_run_measures_every_figure_of_every_rival(monkeypatch):
    monkeypatch.setattr(claim, "ROWS", 64)
    monkeypatch.setattr(claim, "DRAWN", 100)
    monkeypatch.setattr(claim, "SEARCHED", range(2, 4))
    data = bench()
    teacher = train_teacher(data.train, 5, 0)
    found = claim.Found()
    claim.measure_digits(found, data, teacher, 0, 2, lambda line: None)
    rivals = ("BOSS", "uniform chords", "K-step distilled reflow", "reflow", "teacher, uniform", "teacher, Bellman")
    names = {f"{rival}, {k}" for rival in rivals for k in claim.TUNED}
    assert found.distance.keys() == names | {f"teacher, {claim.ANCHORS}", "BOSS with adapters of rank 4, 4"}
    assert all(0 < r <= 1 for values in found.cost.values() for r in values)
    assert found.error.keys() == set(claim.MANY)
    for line in claim._notes(found):
        assert line.endswith(".")
    assert claim._picture(found, data.train).startswith(b"\x89PNG")


def test_bare_steps_are_measured_on_the_curved_path():
    torch.manual_seed(0)
    found = claim.Found()
    field = Field(MLP(64, hidden=8, depth=1), "vp", "v_prediction", shape=(1, 8, 8), value_range=(-1.0, 1.0))
    claim.measure_curved(found, bench(), field, 0)
    assert len(found.distance) == 2 * len(claim.CURVED) + 1


@pytest.mark.parametrize("quick", [True, False])
def test_the_figures_have_the_thresholds_of_the_card(quick):
    found = claim.Found()
    for k in claim.TUNED:
        found.note(f"BOSS, {k}", 0.5)
        found.note(f"reflow, {k}", 1.0)
    for k in claim.CURVED:
        found.note(f"VP teacher, Bellman, {k}", 0.9)
        found.note(f"VP teacher, uniform, {k}", 1.0)
    found.cost[2], found.error[6], found.exact[2] = [1.0], [0.9], [(1.0, 0.94)]
    figures = claim._figures(found, quick)
    assert [f.threshold for f in figures[:2]] == [1.0 if quick else 0.6] * 2
    assert [f.holds for f in figures] == [True, True, False, True, True, True, True, True]  # equal cost is not lower
