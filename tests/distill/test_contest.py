"""A contest on networks that are tiny: what is compared, not who wins."""

import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import rheos
from rheos import core, metrics, nets
from rheos.core.errors import DataError, OptionError, RunError, UnknownOptionError
from rheos.data import load
from rheos.distill import METHODS, Contest, ContestOptions, PairStore, Recipe, SegmentStore, boss, contest, notes
from rheos.distill.contenders import Contender, Stage, shared
from rheos.distill.contest import Seconds, _replace
from rheos.distill.measuring import Entry
from rheos.distill.notes import Note, alone
from rheos.distill.timing import LEAST, Costs, Plan
from rheos.distill.trainings import least_budget, trainings
from rheos.sample import draw
from rheos.train import Options, Run, Sampling, fit
from rheos.train.interrupt import Interruption, going_on
from rheos.train.session import Session

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
    winner = rheos.load(tmp_path / "winner-2")  # draws with what it won with
    assert winner.sampling == found.runs[2].sampling == Sampling(2, found.best(2).solver)
    drawn = draw(winner.field, 4, steps=2, solver=found.best(2).solver, label=3)
    assert torch.equal(winner.draw(4, label=3), drawn)
    assert torch.equal(found.runs[2].draw(4, label=3), drawn)
    assert found.seconds.measuring > sum(e.sampling for e in found.entries)
    assert found.to_dict()["measuring_seconds"] == found.seconds.measuring
    assert found.needed > 2.0  # two seconds do not hold nine methods
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


@pytest.mark.untyped
def test_rows_that_a_method_draws_take_a_part_of_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rheos.distill import timing

    given = list[int]()

    def make(stage: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
        given.append(rows)
        clock.now += 0.015625 * steps
        return Run.__new__(Run)

    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    stage = Stage(flow(), range(5000), PLANE, 3.0, None, Options(), False, (1, 2))  # type: ignore[arg-type]
    costs = Costs(stage, call=1 / 2048)
    method = Contender("x", make, draws=32, guided=True)
    plan = costs.planned(method, 1, 10.0)
    assert plan.rows == 96  # three seconds at 1/32 a guided row
    assert plan.steps == (10 - 96 / 32) * 64
    assert plan.seconds == 10.0
    assert plan.least == 16 / 32 + LEAST / 64
    assert costs.planned(replace(method, guided=False), 1, 10.0).rows == 192
    tiny = costs.planned(method, 1, 0.01)
    assert (tiny.rows, tiny.steps) == (16, LEAST)
    walked = costs.planned(replace(method, walk=lambda *_: None, more=64), 1, 10.0)
    assert walked.rows == 128  # six seconds of two trainings, and a search of 64 rows
    assert walked.steps == (10 - 3) * 64
    assert max(given) == 64
    assert costs.seconds == 0.015625 * (3 + 3 + 6 + 20)  # one trial for all of these


def test_one_matrix_of_costs_and_one_walk_serve_every_number_of_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[str]()
    for module, name in ((sys.modules[boss.__module__], "bellman_costs"), (sys.modules[shared.__module__],
                         "generate_segments")):  # fmt: skip
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, n=name, f=real, **k: calls.append(n) or f(*a, **k))
    monkeypatch.setattr(Costs, "planned", lambda *_: Plan(2, 16))
    found = held(tmp_path, replace(ASKED, methods=("boss",)))
    assert [e.error for e in found.entries] == [None] * 4
    assert sorted(calls) == ["bellman_costs", "generate_segments"]
    store = SegmentStore(tmp_path / "boss-shared" / "segments")
    for k in (1, 2):
        own = rheos.load(tmp_path / f"boss-{k}").field.times
        assert own is not None
        assert set(own) <= set(store.times)
    # the walk counts in equal parts, also in a contest that goes on
    half = json.loads((tmp_path / "boss-shared.json").read_text())["seconds"] / 2
    lines = [e.seconds for e in held(tmp_path, replace(ASKED, methods=("boss",))).entries if e.method == "boss"]
    notes_of = [json.loads((tmp_path / f"boss-{k}.json").read_text())["seconds"] for k in (1, 2)]
    assert lines == [one + half for one in notes_of]
    assert len(calls) == 2  # what is there is not walked again


def test_a_teacher_that_no_student_beats_is_said() -> None:
    def line(method: str, value: float) -> Entry:
        return Entry(method, 1, figures={"d": value}, steps=int(method != "teacher"), seconds=3.0, share=2.0)

    assert Contest((line("teacher", 1.0), line("boss", 1.5)), 1, Seconds(), {}, {}).teacher_leads(1)
    lost = Contest((line("teacher", 1.0), line("boss", 0.5)), 1, Seconds(), {}, {})
    assert not lost.teacher_leads(1)
    assert lost.entries[0].over
    assert lost.to_dict()["teacher_leads"] == []


def test_two_contests_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(RunError, match=f"Another contest is at work in {re.escape(str(tmp_path))}"):
        held(tmp_path)
    with alone(tmp_path):
        pass


def test_methods_with_the_same_step_are_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, real = list[object](), Costs._tried
    monkeypatch.setattr(Costs, "_tried", lambda self, make, *a: tried.append(make) or real(self, make, *a))
    found = held(tmp_path, replace(ASKED, methods=("boss", "instaflow", "progressive", "reflow"), seconds=3.0))
    assert {e.error for e in found.entries} == {None}
    assert tried == [METHODS["reflow"].make, METHODS["progressive"].make]
    assert found.seconds.timing > 0
    again = held(tmp_path, replace(ASKED, methods=("boss", "instaflow", "progressive", "reflow"), seconds=3.0))
    assert again.seconds.timing == 0.0  # what is settled is not timed again
    assert len(tried) == 2


def test_a_budget_that_is_too_small_is_told_with_one_that_would_do(tmp_path: Path) -> None:
    told = list[str]()
    small = replace(ASKED, seconds=0.01)
    found = held(tmp_path, small, say=told.append)
    warned = next(line for line in told if line.startswith("Warning"))
    assert re.search(r"equal shares of 0.01 s some .* their least, 4 steps.* A budget of .* has room", warned)
    assert found.needed > 0.01
    assert [e.steps for e in found.entries if e.steps] == [LEAST] * 2
    first = told[1]
    assert re.match(
        r"Drawing \d+ samples of the teacher takes about .*, training and its timing .*; measuring .* takes .* more",
        first,
    )


def test_the_budget_that_would_do_gives_every_training_its_least() -> None:
    methods = [Contender("a", METHODS["reflow"].make), Contender("b", METHODS["boss"].make, every=False)]
    work = trainings(methods, (1, 2), 100.0, Path("x"))
    assert [one.share for one in work] == [40.0, 20.0, 20.0]
    plans = {one.folder: Plan(9, 9, 10.0, least) for one, least in zip(work, (30.0, 30.0, 5.0), strict=True)}
    needed = least_budget(work, plans, timing=8.0, seconds=100.0)
    assert needed == (30.0 * 4 + 8.0) / 0.8  # a quarter of the trainings' time is 30 s
    share = trainings(methods, (1, 2), needed, Path("x"))[1].share
    assert share * (1 - 8.0 / (0.8 * needed)) == pytest.approx(30.0)
    assert least_budget(work, plans, timing=8.0, seconds=200.0) == 0.0
    assert least_budget(work, dict.fromkeys(plans, "cannot run here"), timing=8.0, seconds=100.0) == 0.0


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


def held(
    out: Path,
    options: ContestOptions = ASKED,
    field: core.Field | None = None,
    size: int = 200,
    say: Callable[[str], None] = lambda line: None,
) -> Contest:
    real = PLANE.batch(torch.arange(200)).x
    return contest(
        field or flow(), lambda x, _, __: {"d": metrics.sliced_wasserstein(x, real)}, PLANE.limit(size), out=out,
        options=options, progress=False, say=say,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contest]:
    """A contest with one training for all numbers of evaluations, and one with a training for each."""
    folder = tmp_path_factory.mktemp("contests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Costs, "planned", lambda *_: Plan(2, 64))
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
    assert held(tmp_path).seconds.pairs == 10.0
    assert held(tmp_path).seconds.pairs == 10.0
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
    longer = "seconds" in change or "methods" in change
    assert ("cannot be given more time afterwards: its learning rate falls to nothing" in str(told.value)) == longer
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


def test_the_seconds_of_a_process_that_is_killed_are_written_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "EVERY", 0.01)
    made, place = tmp_path / "made", tmp_path / "n.json"
    made.mkdir()
    with Note(place, made).timed():
        end = time.monotonic() + 5
        while time.monotonic() < end and Note(place, made).seconds < 0.05:
            time.sleep(0.01)
        left = Note(place, made)  # what a kill would leave here
        assert 0.05 <= left.seconds < 5
        assert not left["done"]
    assert Note(place, made)["done"]
    whole = Note(place, made).seconds
    assert whole >= left.seconds
    time.sleep(0.05)
    assert Note(place, made).seconds == whole  # nobody writes any more


def test_a_training_that_is_stopped_says_how_the_contest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Session, wish: Interruption) -> bool:
        wish.signal = 0 if self.files is None else signal.SIGINT  # trials go on
        return wish.signal != 0

    monkeypatch.setattr(Session, "_stop", stopped)
    with pytest.raises(KeyboardInterrupt) as told:
        held(tmp_path)
    assert "Stopped after step 1 of" in str(told.value)
    assert f"The same contest, asked for again in {tmp_path}, goes on from there." in str(told.value)
    with (
        going_on("Go on:  rheos distill x"),
        pytest.raises(KeyboardInterrupt, match=r"step 2 .* Go on:  rheos distill x"),
    ):
        held(tmp_path)


def test_what_lies_beside_a_winner_stays_when_the_contest_goes_on(tmp_path: Path) -> None:
    run = fit(core.Field(nets.MLP(2, hidden=4, depth=1)), core.FlowMatching(), load("moons", limit=8), steps=1,
              options=Options(batch=4, sample_every=0, save_every=0), progress=False)  # fmt: skip
    place = tmp_path / "winner-1"
    _replace(run, place)
    (place / "drawn").mkdir()
    (place / "drawn" / "note.txt").write_text("mine")
    (place / "config.json").write_text("{}")
    _replace(run, place)
    assert (place / "drawn" / "note.txt").read_text() == "mine"
    assert rheos.load(place).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["winner-1"]
