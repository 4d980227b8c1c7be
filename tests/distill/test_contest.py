"""A contest on networks that are tiny: what is compared, not who wins."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from rheos import core, metrics, nets
from rheos.core.errors import DataError, OptionError, RunError, UnknownOptionError
from rheos.data import load
from rheos.distill import METHODS, Contest, ContestOptions, PairStore, Recipe, contest, notes
from rheos.distill.contenders import Contender, Stage, smaller
from rheos.distill.measuring import Entry
from rheos.distill.notes import Note, alone
from rheos.distill.timing import Plan, planned
from rheos.train import Options, Run

QUICK = Recipe(steps=2, solver="euler", chunk=32)


def test_all_methods_run_on_a_flow_with_labels_and_bake_its_guidance_in(tmp_path: Path) -> None:
    data = load("digits", limit=200)
    torch.manual_seed(0)
    net = nets.UNet(1, width=16, multipliers=(1, 2), attention=(), classes=10)
    field = core.Field(net, shape=data.shape, value_range=data.delivers)
    real = data.batch(torch.arange(200)).x
    told: list[str] = []

    def judge(x: Tensor, label: Tensor | None, part: str) -> dict[str, float]:
        told.append(part)
        assert label is not None
        return {"distance": metrics.sliced_wasserstein(x, real)}

    options = ContestOptions((2,), seconds=2.0, samples=20, guidance=2.0, teacher=QUICK)
    found = contest(field, judge, data, out=tmp_path, options=options, progress=False)
    lines = {e.method: e for e in found.entries}
    assert set(lines) == {"teacher", *METHODS}
    assert {e.method: e.error for e in found.entries if e.error} == {}
    assert lines["teacher"].calls == 4  # two steps, each with and without the label
    assert all(e.calls == 2 for e in found.entries if e.method != "teacher")
    assert lines["slimflow"].parameters < lines["teacher"].parameters
    assert found.best(2).method == min(found.entries[1:], key=lambda e: e.chosen_by).method
    assert told.count("choose") == len(found.entries)
    assert told.count("report") == len(found.entries) + 1  # the teacher by its own recipe
    assert found.reference is not None
    assert (found.reference.evaluations, found.reference.calls) == (2, 4)
    solvers = {m: e.solver for m, e in lines.items() if e.solver != "euler"}
    assert solvers == {"splitmeanflow": "jump", "mdt_dist": "renoise", "consistency": "renoise"}
    assert lines["instaflow"].steps == ran(tmp_path / "instaflow-2", "reflow-1", "distil")
    assert lines["slimflow"].steps == ran(tmp_path / "slimflow-2", "flow", "student")
    for place in ("rfpp", "slimflow-2"):  # not trained by the eyes of a judge
        configs = [file.read_text() for file in (tmp_path / place).rglob("config.json")]
        assert configs
        assert not any("erceptual" in text for text in configs)
    assert (tmp_path / "winner-2" / "config.json").exists()
    row = next(line for line in found.to_dict()["entries"] if line["method"] == "boss")
    assert row["share"] == pytest.approx(1.6 / len(METHODS))
    assert row["over"] == (row["seconds"] > 1.25 * row["share"])


def ran(folder: Path, *parts: str) -> int:
    """Optimiser steps of the runs in a folder."""
    return sum(int(json.loads((folder / part / "config.json").read_text())["steps"]) for part in parts)


def test_a_preconditioned_network_with_classes_is_sampled_with_balanced_labels(tmp_path: Path) -> None:
    data = load("digits", limit=100)
    torch.manual_seed(0)
    net = nets.EDM(nets.UNet(1, width=8, multipliers=(1,), attention=(), classes=10), "edm")
    field = core.Field(net, "edm", "data", shape=data.shape, value_range=data.delivers)
    seen: list[Tensor | None] = []

    def judge(x: Tensor, label: Tensor | None, part: str) -> dict[str, float]:
        seen.append(label)
        return {"size": float(x.std())}

    options = ContestOptions((1,), ("reflow",), seconds=1.0, samples=20, teacher=QUICK)
    contest(field, judge, data, out=tmp_path, options=options, progress=False)
    assert all(label is not None and label.bincount().tolist() == [2] * 10 for label in seen)


@pytest.mark.parametrize("when", ["trial", "training"])
def test_an_error_that_nobody_expected_ends_one_method_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    real = METHODS["boss"]

    def make(stage: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
        if (out is None) == (when == "trial"):
            raise KeyError("label")
        return real.make(stage, k, steps, rows, out)

    monkeypatch.setitem(METHODS, "boss", Contender("boss", make))
    found = held(tmp_path, replace(ASKED, methods=("boss", "reflow"), evaluations=(1,)))
    assert {e.method: e.error for e in found.entries} == {"teacher": None, "boss": "KeyError: 'label'", "reflow": None}
    assert "Traceback" in (tmp_path / "boss.error.txt").read_text()


def test_rows_that_a_method_draws_take_a_part_of_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rheos.distill import timing

    given = list[int]()

    def make(stage: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
        given.append(rows)
        clock.now += 0.015625 * steps
        return Run.__new__(Run)

    def drawn(field: object, n: int, **how: float | None) -> None:
        clock.now += n * (0.03125 if how["guidance"] else 0.015625)

    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "draw_solution", drawn)
    stage = Stage(flow(), range(5000), PLANE, 3.0, None, Options(), False)  # type: ignore[arg-type]
    method = Contender("x", make, draws=40, guided=True)
    plan = planned(method, stage, 1, 10.0)
    assert plan.rows == 96  # three seconds at 1/32 a guided row
    assert plan.steps == (10 - 4 / 64 - (96 - 64) / 32) * 64
    assert planned(replace(method, guided=False), stage, 1, 10.0).rows == 192
    assert planned(method, stage, 1, 0.01).rows == 16
    assert max(given) == 64


def test_one_matrix_of_costs_serves_every_number_of_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rheos.distill import boss as module

    calls, real = list[int](), sys.modules[module.__module__].bellman_costs  # type: ignore[attr-defined]
    monkeypatch.setattr(
        sys.modules[module.__module__], "bellman_costs", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    monkeypatch.setattr(MODULE, "planned", lambda *_: Plan(2, 16))
    found = held(tmp_path, replace(ASKED, methods=("boss",)))
    assert [e.error for e in found.entries] == [None] * 4
    assert len(calls) == 1


def test_a_teacher_that_no_student_beats_is_said() -> None:
    def line(method: str, value: float) -> Entry:
        return Entry(method, 1, figures={"d": value}, steps=int(method != "teacher"), seconds=3.0, share=2.0)

    assert Contest((line("teacher", 1.0), line("boss", 1.5)), 1, 0.0, {}, {}).teacher_leads(1)
    lost = Contest((line("teacher", 1.0), line("boss", 0.5)), 1, 0.0, {}, {})
    assert not lost.teacher_leads(1)
    assert lost.entries[0].over
    assert lost.to_dict()["teacher_leads"] == []


def test_two_contests_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(RunError, match=f"Another contest is at work in {re.escape(str(tmp_path))}"):
        held(tmp_path)
    with alone(tmp_path):
        pass


def test_a_smaller_network_has_half_the_width() -> None:
    net = smaller(nets.MLP(2, hidden=64, depth=2))
    assert net.config["hidden"] == 32  # type: ignore[index]
    with pytest.raises(OptionError, match="Linear has no width to halve"):
        smaller(nn.Linear(2, 2))


def test_options_that_make_no_contest_are_refused() -> None:
    for bad in ({"evaluations": ()}, {"evaluations": (1, 1)}, {"seconds": 0.0}, {"samples": 2}):
        with pytest.raises(OptionError):
            ContestOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(UnknownOptionError, match="did you mean 'reflow'"):
        ContestOptions(methods=("reflo",))


def test_a_second_contest_replaces_the_winner_and_a_failing_judge_ends_nothing(
    tmp_path: Path,
) -> None:
    data = load("moons", limit=200)
    torch.manual_seed(0)
    field = core.Field(nets.MLP(2, hidden=8, depth=1, time_features=8), shape=(2,))
    real = data.batch(torch.arange(200)).x

    def run(method: str) -> dict[str, object]:
        options = ContestOptions((1,), (method,), seconds=1.0, samples=20, teacher=QUICK)
        contest(
            field, lambda x, _, __: {"d": metrics.sliced_wasserstein(x, real)}, data, out=tmp_path, options=options,
            progress=False,
        )  # fmt: skip
        return json.loads((tmp_path / "winner-1" / "config.json").read_text())["field"]

    assert run("reflow")["kind"] == "Field"
    assert run("splitmeanflow")["kind"] == "FlowMapField"

    def blind(x: Tensor, label: Tensor | None, part: str) -> dict[str, float]:
        if x.shape[0] and not torch.equal(x, x.clamp(-1e-9, 1e-9)):
            return {"d": float("nan")}
        return {"d": 1.0}

    found = contest(field, blind, data, out=tmp_path / "b", progress=False,
                    options=ContestOptions((1,), ("reflow",), seconds=1.0, samples=20, teacher=QUICK))  # fmt: skip
    assert found.best(1) is None
    assert found.runs == {}


# --- continued contests ---------------------------------------------------------------------------------------------

MODULE = sys.modules[ContestOptions.__module__]
PLANE = load("moons", limit=200)
ASKED = ContestOptions((1, 2), ("reflow",), seconds=1.0, samples=20, teacher=QUICK)


def flow(seed: int = 0) -> core.Field:
    torch.manual_seed(seed)
    return core.Field(nets.MLP(2, hidden=8, depth=1, time_features=8), shape=(2,))


def held(out: Path, options: ContestOptions = ASKED, field: core.Field | None = None, size: int = 200) -> Contest:
    real = PLANE.batch(torch.arange(200)).x
    return contest(
        field or flow(), lambda x, _, __: {"d": metrics.sliced_wasserstein(x, real)}, PLANE.limit(size), out=out,
        options=options, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contest]:
    """A contest with one training for all numbers of evaluations, and one with a training for each."""
    folder = tmp_path_factory.mktemp("contests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "planned", lambda *_: Plan(2, 64))
        held(folder / "each", replace(ASKED, methods=("progressive",)))
        return folder, held(folder / "one")


class Clock:
    """Stands still until somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(notes, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def test_the_seconds_of_a_training_that_was_interrupted_add_up(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = METHODS["reflow"], list[float]()

    def make(stage: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
        if out is None:  # a trial
            return real.make(stage, k, steps, rows, out)
        calls.append(7.0 if not calls else 3.0)
        out.mkdir(exist_ok=True)
        clock.now += calls[-1]
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real.make(stage, k, steps, rows, out)

    monkeypatch.setitem(METHODS, "reflow", Contender("reflow", make))
    with pytest.raises(KeyboardInterrupt):
        held(tmp_path)
    found = held(tmp_path)
    assert [e.seconds for e in found.entries if e.method == "reflow"] == [10.0, 10.0]
    again = held(tmp_path)  # whose make takes three seconds to read what is there
    assert [e.seconds for e in again.entries if e.method == "reflow"] == [10.0, 10.0]
    assert len(calls) == 3


def test_the_seconds_of_pairs_that_were_interrupted_add_up(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:

    real, calls = MODULE.generate, list[int]()

    def generate(*args: object, **options: object) -> PairStore:
        calls.append(len(calls))
        clock.now += 5.0
        store: PairStore = real(*args, **options)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return store

    monkeypatch.setattr(MODULE, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        held(tmp_path)
    assert held(tmp_path).seconds == 10.0
    assert held(tmp_path).seconds == 10.0
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seconds": 60.0}, "another budget (1 s, now 60 s)"),
        ({"guidance": 2.0}, "another guidance (1.0, now 2.0)"),
        ({"seed": 3}, "another seed (0, now 3)"),
        ({"teacher": replace(QUICK, steps=5)}, "another value of teacher.steps (2, now 5)"),
        ({"methods": ("reflow", "boss")}, "reflow had 0.8 s of the budget, now 0.4 s"),
        ({"seconds": 2.0, "seed": 4}, "another budget (1 s, now 2 s); another seed (0, now 4)"),
    ],
)
def test_a_contest_that_is_asked_for_something_else_is_refused_and_nothing_changes(
    finished: tuple[Path, Contest], change: dict[str, object], words: str
) -> None:
    place = finished[0] / "one"
    before = {p: p.stat().st_mtime_ns for p in sorted(place.rglob("*")) if p.is_file()}
    with pytest.raises(RunError, match=re.escape(words)) as told:
        held(place, replace(ASKED, **change))  # type: ignore[arg-type]
    assert str(place) in str(told.value)
    assert "choose another out" in str(told.value)
    assert {p: p.stat().st_mtime_ns for p in sorted(place.rglob("*")) if p.is_file()} == before


def test_another_teacher_or_other_data_are_refused_and_other_ways_to_look_are_not(
    finished: tuple[Path, Contest],
) -> None:
    place, first = finished[0] / "one", finished[1]
    with pytest.raises(RunError, match="another teacher"):
        held(place, field=flow(1))
    with pytest.raises(RunError, match="another data"):
        held(place, size=100)
    more = held(place, replace(ASKED, samples=30, evaluations=(2,)))  # one training serves every number of them
    assert more.pairs == first.pairs
    assert [e.steps for e in more.entries if e.steps] == [2]


def test_fewer_evaluations_leave_each_training_more_time_and_are_refused(finished: tuple[Path, Contest]) -> None:
    with pytest.raises(RunError, match=r"progressive-2 had 0\.4 s of the budget, now 0\.8 s"):
        held(finished[0] / "each", replace(ASKED, methods=("progressive",), evaluations=(2,)))
    with pytest.raises(RunError, match=r"progressive-1 had .*, and 1 more likewise\.") as told:
        held(finished[0] / "each", replace(ASKED, methods=("progressive", "reflow")))
    assert str(told.value).count("other methods or evaluations") == 1


def test_a_folder_that_does_not_say_what_it_was_asked_for_is_refused_and_damage_is_told(
    finished: tuple[Path, Contest], tmp_path: Path
) -> None:
    place = shutil.copytree(finished[0] / "one", tmp_path / "copy")
    (place / "rules.json").write_text("{")
    with pytest.raises(DataError, match=r"rules\.json is damaged"):
        held(place)
    (place / "rules.json").unlink()
    with pytest.raises(RunError, match="does not say what it was asked for"):
        held(place)


def test_seconds_of_work_that_is_gone_do_not_count(tmp_path: Path, clock: Clock) -> None:
    made = tmp_path / "made"
    made.mkdir()
    with Note(tmp_path / "n.json", made).timed():
        clock.now += 2.0
    assert Note(tmp_path / "n.json", made).seconds == 2.0
    made.rmdir()
    note = Note(tmp_path / "n.json", made)
    assert note.seconds == 0.0
    with note.timed():
        clock.now += 1.0
    assert note.seconds == 1.0
