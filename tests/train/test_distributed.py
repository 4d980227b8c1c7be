"""1 x 8 rows, 2 x 4 rows and two accumulated halves are one run, also with weights that belong to the whole batch."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rheos.core.errors import OptionError, RunError
from rheos.train import load
from rheos.train.dist import Team

WORKER = Path(__file__).with_name("worker.py")
pytestmark = pytest.mark.distributed


def _worker():
    spec = spec_from_file_location("worker", WORKER)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = _worker()


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """The folder in which two processes ran all jobs."""
    folder = tmp_path_factory.mktemp("double")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(folder), *worker.JOBS],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Runs a job in this process, once."""
    folder, made = tmp_path_factory.mktemp("single"), {}

    def run(coupling="gibbs", **options):
        key = f"{coupling}-{len(made)}" if (coupling, str(options)) not in made else made[coupling, str(options)]
        made[coupling, str(options)] = key
        couple = worker.JOBS["gibbs"]["coupling"] if coupling == "gibbs" else coupling
        return worker.train(folder / key, couple, **options)

    return run


def close(a, b):
    """Equal up to the order of float32 sums, which Adam's division magnifies in eight steps of rate 2e-3."""
    losses = [[line["loss"] for line in run.metrics()] for run in (a, b)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    norms = [[line["grad_norm"] for line in run.metrics()] for run in (a, b)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    for x, y in ((a.field, b.field), (a.raw, b.raw)):
        for name, value in x.state_dict().items():
            torch.testing.assert_close(value, y.state_dict()[name], rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize(
    ("job", "coupling", "batch"),
    [
        ("plain", "independent", 8),
        ("gibbs", "gibbs", 8),
        ("sharded", "gibbs", 8),
        ("accumulated", "gibbs", 8),
        ("uneven", "exact-ot", 9),
    ],
)
@pytest.mark.filterwarnings("ignore:ExactOT over 10 classes")
def test_two_processes_are_one(double, single, job, coupling, batch):
    close(load(double / job), single(coupling, batch=batch))


def test_accumulated_halves_are_one(single):
    close(single("gibbs", accumulate=2), single("gibbs"))


@pytest.mark.parametrize("job", ["resumed", "resumed-sharded"])
def test_two_processes_resume_like_one_that_never_stopped(double, single, job):
    close(load(double / job), single("gibbs", decay="constant"))


@pytest.mark.parametrize("job", ["gibbs", "sharded"])
def test_what_two_processes_saved_is_resumed_by_one(double, single, job, tmp_path):
    shutil.copytree(double / job, tmp_path / job)
    shutil.rmtree(tmp_path / job / "state" / "step-0000008")
    assert load(tmp_path / job).step == 6  # half-way between two lines of the log
    resumed = worker.train(tmp_path / job, worker.JOBS[job]["coupling"])
    assert (resumed.step, resumed.config["processes"]) == (8, 1)
    close(resumed, single("gibbs"))


def test_all_processes_return_the_same_run(double):
    for job in worker.JOBS:
        for kind in ("field", "raw"):
            first, second = ((double / f"{job}.{kind}.{rank}").read_text() for rank in (0, 1))
            assert first == second, job


def test_files_are_those_of_one_process(double, single):
    for job in ("gibbs", "sharded"):
        for name in ("model", "ema"):
            ours = load_file(double / job / f"{name}.safetensors")
            theirs = load_file(single("gibbs").path / f"{name}.safetensors")
            assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in theirs.items()}
        assert json.loads((double / job / "config.json").read_text())["processes"] == 2
        assert [p.name for p in (double / job / "samples").iterdir()] == ["step_000006.png", "step_000008.png"]


def test_an_error_of_the_first_process_is_everybodys(double):
    first, second = ((double / f"refused.{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith("RunError: ")
    assert "objective.coupling.kind: Independent -> Sinkhorn" in first


# Without processes.


def test_rows_are_shared_out_without_gap_or_overlap():
    team = Team(torch.device("cpu"))
    for size in (1, 2, 3):
        for batch in range(6, 20):
            for accumulate in (1, 2):
                pieces = []
                for rank in range(size):
                    team.rank, team.size = rank, size
                    pieces += team.parts(batch, accumulate)
                assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]
                assert pieces[-1][1] == batch
                lengths = {stop - start for start, stop in pieces}
                assert max(lengths) - min(lengths) <= 1


def test_a_batch_too_small_to_share_is_refused():
    team = Team(torch.device("cpu"))
    team.size = 4
    with pytest.raises(OptionError, match=r"7 rows cannot be shared by 4 processes x accumulate=2.*at least 8"):
        team.parts(7, 2)


def test_a_world_size_without_a_launcher_is_one_sentence(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        RunError, match=r"WORLD_SIZE=2, but the processes do not find each other.*Start them with torchrun"
    ):
        Team.assemble(torch.device("cpu"))
