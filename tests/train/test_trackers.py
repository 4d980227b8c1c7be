"""Every tracker is told the same; metrics.jsonl alone is the record."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rheos.core.errors import CheckpointError, MissingExtraError, OptionError, RunError
from rheos.train.trackers import JSONL, read_lines, trackers


class Listening:
    """A tracker of a user, which remembers what it is told."""

    heard: list[tuple[Any, ...]] = []  # noqa: RUF012

    def __init__(self, folder):
        self.folder = folder

    def start(self, config, step):
        self.heard.append(("start", config["data"]["name"], step))

    def log(self, step, values):
        self.heard.append(("log", step, values["loss"]))

    def picture(self, step, name, path):
        self.heard.append(("picture", step, name, path.read_bytes()[:4]))

    def close(self):
        self.heard.append(("close",))


@pytest.fixture
def module(monkeypatch):
    """A module of a user that can be imported."""
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(Listening=Listening, Deaf=object))
    monkeypatch.setattr(Listening, "heard", [])
    return Listening


def test_a_tracker_of_ones_own_hears_figures_pictures_beginning_and_end(tmp_path, train, module):
    run = train(tmp_path, trackers=("mine:Listening",), log_every=3, sample_every=4)
    losses = [line["loss"] for line in run.metrics()]
    assert module.heard == [
        ("start", "moons", 0),
        ("log", 3, losses[0]),
        ("picture", 4, "samples", b"\x89PNG"),
        ("log", 6, losses[1]),
        ("picture", 6, "samples", b"\x89PNG"),
        ("close",),
    ]


def test_a_resumed_run_tells_its_trackers_where_it_goes_on(tmp_path, train, module):
    train(tmp_path, steps=4)
    train(tmp_path, resume=True, trackers=("mine:Listening",))
    assert module.heard[0] == ("start", "moons", 4)


def test_trackers_are_closed_when_a_run_fails(tmp_path, train, module, monkeypatch):
    monkeypatch.setattr("rheos.train.engine.Engine.take", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, trackers=("mine:Listening",))
    assert module.heard[-1] == ("close",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Tracker", r"tracker 'nowhere:Tracker' cannot be imported: No module named 'nowhere'"),
        ("mine:Missing", r"cannot be imported.*Missing"),
        ("mine:Deaf", r"lacks start, log, picture, close"),
    ],
)
def test_a_tracker_that_is_none_is_refused_before_a_directory_is_made(tmp_path, train, module, name, message):
    with pytest.raises(OptionError, match=message):
        train(tmp_path / "run", trackers=(name,))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["trackio", "wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_names_the_command(tmp_path, train, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(MissingExtraError, match=rf"tracker {name} needs.*pip install 'rheos\[{name}\]'"):
        train(tmp_path / "run", trackers=(name,))
    assert not (tmp_path / "run").exists()


def test_metrics_jsonl_is_cut_after_the_step_and_half_a_line_is_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 2.0}\n{"step": 6, "lo')
    tracker = JSONL(tmp_path)
    tracker.start({}, 2)
    tracker.log(3, {"loss": 0.1, "grad_norm": None})
    tracker.close()
    assert file.read_text() == '{"step": 2, "loss": 1.0}\n{"step": 3, "loss": 0.1, "grad_norm": null}\n'
    assert read_lines(file)[-1] == {"step": 3, "loss": 0.1, "grad_norm": None}


def test_a_line_that_finds_no_room_is_one_sentence(tmp_path):
    tracker = JSONL(tmp_path)
    tracker.start({}, 0)
    tracker._file.close()
    tracker._file = Path("/dev/full").open("w")  # noqa: SIM115
    with pytest.raises(RunError, match=r"metrics.jsonl cannot be written: No space left on device"):
        tracker.log(1, {"loss": 0.5})
    tracker.close()


def test_a_line_that_is_no_figure_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\nhello\n')
    with pytest.raises(CheckpointError, match=r"Line 2 of .*is no line of figures"):
        read_lines(tmp_path / "metrics.jsonl")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_files_hold_the_figures_and_pictures(tmp_path, train):
    run = train(tmp_path, trackers=("tensorboard",), log_every=3, sample_every=6)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    stored = [(e.step, e.value) for e in events.Scalars("loss")]
    assert stored == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in run.metrics()]
    assert [e.step for e in events.Images("samples")] == [6]


def _recording(monkeypatch, name):
    """A stand-in for a package that records calls."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def note(method):
        return lambda *args, **options: calls.append((method, {**dict(enumerate(args)), **options}))

    run = SimpleNamespace(log=note("log"), finish=note("finish"))

    def init(**options):
        calls.append(("init", options))
        return run

    fake = SimpleNamespace(init=init, log=run.log, finish=run.finish, Image=lambda path: ("image", path))
    monkeypatch.setitem(sys.modules, name, fake)
    return calls


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_trackio_and_wandb_hear_one_run_that_stays_on_this_machine(tmp_path, train, monkeypatch, name):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    calls = _recording(monkeypatch, name)
    run = train(tmp_path / "moons", trackers=(name,), log_every=6, sample_every=6)
    methods = [method for method, _ in calls]
    assert methods == ["init", "log", "log", "finish"]
    start, log, picture, _ = (options for _, options in calls)
    assert (start["project"], start["name"]) == ("rheos", "moons")
    assert start["config"]["data"]["name"] == "moons"
    assert log["step"] == 6
    assert log[0]["loss"] == run.metrics()[0]["loss"]
    assert picture[0]["samples"][0] == "image"
    if name == "wandb":
        assert start["mode"] == "offline"
        again = trackers(("wandb",), tmp_path / "moons")[1]
        again.start(run.config, 6)
        assert calls[-1][1]["id"] == start["id"]  # a resumed run goes on in the same place


def test_figures_that_are_not_finite_become_null_in_the_file(tmp_path, train):
    from rheos import core

    class Logged(core.FlowMatching):
        def loss(self, *args):
            return super().loss(*args)._replace(logs={"ratio": float("nan"), "share": 0.5})

    run = train(tmp_path, objective=Logged())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["ratio"] is None and line["share"] == 0.5 for line in lines)
    assert run.metrics() == lines
