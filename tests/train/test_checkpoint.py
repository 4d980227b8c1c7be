"""Files are complete or absent, damage is one sentence, and nobody's directory is destroyed."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rheos.core.errors import CheckpointError, RunError
from rheos.train import load
from rheos.train.checkpoint import Checkpoint, Store, newest, read_config

STEP = "state/step-0000006"


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def _small(step: int) -> Checkpoint:
    return Checkpoint(step, {"model": {"w": torch.full((3,), float(step))}}, {"seconds": 0.0})


# Writing.


def test_a_run_directory_holds_what_the_design_says(tmp_path, train):
    train(tmp_path, keep=2, sample_every=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md", "config.json", "ema.safetensors", "metrics.jsonl", "model.safetensors", "samples", "state",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == [
        "latest.json", "lock", "step-0000004", "step-0000006",
    ]  # fmt: skip
    for name in ("model", "ema"):
        top, stored = (
            load_file(f) for f in (tmp_path / f"{name}.safetensors", tmp_path / STEP / f"{name}.safetensors")
        )
        assert all(torch.equal(top[n], stored[n]) for n in stored)


def test_no_file_of_a_run_is_a_pickle(tmp_path, train):
    train(tmp_path, sample_every=3)
    for name, content in _tree(tmp_path).items():
        assert not content.startswith((b"\x80", b"PK")), name


@pytest.mark.parametrize("at", range(12))
def test_a_write_that_fails_anywhere_leaves_the_older_checkpoint_whole(tmp_path, monkeypatch, at):
    store = Store(tmp_path, False, keep=3)
    store.begin({"format": 1, "field": {}, "objective": {}, "options": {}, "data": {}, "steps": 9}, _small(0))
    store.save(_small(1))
    before = {n: c for n, c in _tree(tmp_path).items() if "step-" in n}
    calls = {"left": at}

    def failing(real):
        def call(*args, **kwargs):
            calls["left"] -= 1
            if calls["left"] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call

    for owner, name in (
        (os, "fsync"), (os, "link"), (Path, "rename"), (Path, "replace"), (Path, "mkdir"), (Path, "open"),
        (shutil, "copyfile"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    failure = None
    try:
        store.save(_small(2))
    except RunError as error:
        failure = str(error)
    monkeypatch.undo()
    assert failure is None or "cannot be written: No space left on device. What was complete" in failure
    after = _tree(tmp_path)
    assert before.items() <= after.items()
    found = newest(tmp_path)
    assert found is not None
    assert float(load_file(found / "model.safetensors")["w"][0]) == int(found.name[-1])
    store.close()
    again = Store(tmp_path, True, keep=3)  # and the next attempt succeeds
    again.save(_small(2))
    assert newest(tmp_path).name == "step-0000002"
    assert not list(tmp_path.glob("state/tmp-*"))
    again.close()


def test_a_disk_that_is_full_stops_the_run_with_one_sentence(tmp_path, train, monkeypatch):
    train(tmp_path, steps=4)
    before = _tree(tmp_path / "state")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(
        RunError, match=r"cannot be written: No space left on device. What was complete there is untouched"
    ):
        train(tmp_path, steps=6, resume=True)
    after = _tree(tmp_path / "state")
    assert {n: c for n, c in before.items() if "step-" in n}.items() <= after.items()
    assert not list(tmp_path.glob("state/tmp-*"))


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False
    ) if shutil.which("mount") else None  # fmt: skip
    if done is None or done.returncode:
        pytest.skip("mounting a file system needs a privilege that this machine does not give")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full_stops_the_run_which_goes_on_when_there_is_room(tiny_disk, train, tmp_path, equal):
    whole = train(tmp_path / "whole", steps=40, save_every=1, keep=50)
    with pytest.raises(RunError, match="No space left on device"):
        train(tiny_disk / "run", steps=40, save_every=1, keep=50)
    old = sorted((tiny_disk / "run").glob("state/step-*"))
    assert len(old) > 2
    for folder in old[:-1]:
        shutil.rmtree(folder)
    assert equal(whole, train(tiny_disk / "run", steps=40, save_every=1, keep=1, resume=True))


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path, train):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/run cannot be written: Not a directory"):
        train(tmp_path / "file" / "run")


def test_two_processes_cannot_write_one_directory(tmp_path, train):
    store = Store(tmp_path, False, keep=1)
    with pytest.raises(RunError, match="Another process is writing"):
        train(tmp_path)
    store.close()
    train(tmp_path)


def test_other_peoples_files_are_not_overwritten(tmp_path, train):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(RunError, match=r"holds model.safetensors but no config.json, so it is no run of rheos"):
        train(tmp_path, resume=True)
    assert _tree(tmp_path) == {"model.safetensors": b"precious"}


@pytest.mark.parametrize("resume", [False, True])
def test_a_configuration_of_another_program_is_not_taken_for_a_run(tmp_path, train, resume):
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    (tmp_path / ".notes.tmp").write_text("mine")
    before = _tree(tmp_path)
    with pytest.raises(CheckpointError, match=r"config.json is no run of rheos: it lacks"):
        train(tmp_path, resume=resume)
    assert _tree(tmp_path) == before


def test_checkpoints_whose_configuration_was_lost_are_not_overwritten(tmp_path, train):
    train(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(RunError, match=r"but no config.json"):
        train(tmp_path, resume=True)


def test_files_that_are_not_ours_may_lie_in_a_new_runs_directory(tmp_path, train):
    (tmp_path / "log.txt").write_text("started")
    assert train(tmp_path).step == 6


def test_a_beginning_that_was_cut_short_begins_again(tmp_path, train, equal, monkeypatch):
    whole = train(tmp_path / "whole")

    class Killed(BaseException):
        pass

    def killed(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("rheos.train.checkpoint.write_json", killed)
        with pytest.raises(Killed):
            train(tmp_path / "cut")
    assert equal(whole, train(tmp_path / "cut", resume=True))


def test_leftovers_of_a_write_that_was_killed_are_swept_away(tmp_path, train, equal):
    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", steps=4)
    shutil.copytree(tmp_path / "cut/state/step-0000004", tmp_path / "cut/state/tmp-0000006")
    (tmp_path / "cut/state/tmp-0000006/model.safetensors").write_bytes(b"half")
    (tmp_path / "cut/.config.json.tmp").write_text("{")
    train(tmp_path / "cut", steps=6, resume=True)
    assert not list(tmp_path.glob("cut/state/tmp-*"))
    assert not list(tmp_path.glob("cut/.*.tmp"))
    assert whole.step == 6


def test_the_last_whole_checkpoint_is_used_where_the_pointer_is_gone_or_dangles(tmp_path, train, equal):
    whole = train(tmp_path)
    (tmp_path / "state" / "latest.json").unlink()
    assert equal(whole, train(tmp_path, resume=True))
    shutil.rmtree(tmp_path / STEP)
    assert load(tmp_path).step == 4
    assert equal(whole, train(tmp_path, resume=True))


def test_weights_whose_publication_was_killed_are_published_when_the_run_goes_on(tmp_path, train):
    train(tmp_path / "a")
    for name in ("model", "ema"):  # as if the plug had been pulled after the checkpoint, before its copy
        shutil.copyfile(tmp_path / f"a/state/step-0000004/{name}.safetensors", tmp_path / "old")
        (tmp_path / "old").replace(tmp_path / f"a/{name}.safetensors")
    train(tmp_path / "a", resume=True)
    for name in ("model", "ema"):
        ours, newest_ = (load_file(tmp_path / "a" / f / f"{name}.safetensors") for f in ("", STEP))
        assert all(torch.equal(ours[n], newest_[n]) for n in newest_)


def test_only_the_newest_few_checkpoints_are_kept(tmp_path, train):
    train(tmp_path, save_every=1, keep=3)
    assert sorted(f.name[-1] for f in tmp_path.glob("state/step-*")) == ["4", "5", "6"]


# Reading.


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def _foreign(file: Path) -> None:
    file.unlink()
    save_file({"somebody": torch.zeros(2)}, file)


def _garbage(file: Path) -> None:
    file.write_bytes(b"GIF89a")


def _gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (f"{STEP}/ema.safetensors", _truncated, r"ema.safetensors is truncated or.*Delete the folder step-0000006"),
        (f"{STEP}/model.safetensors", _garbage, r"model.safetensors is truncated or not a safetensors file"),
        (f"{STEP}/model.safetensors", _gone, r"model.safetensors is missing. Delete the folder step-0000006"),
        (f"{STEP}/ema.safetensors", _foreign, r"ema.safetensors was written for another network: \d+ tensors"),
        (f"{STEP}/state.json", _truncated, r"state.json is truncated or not JSON. Delete the folder"),
        (f"{STEP}/state.json", _gone, r"state.json cannot be read: No such file"),
        ("state/latest.json", _garbage, r"latest.json is truncated or not JSON. Copy it again, or train again"),
        ("config.json", _truncated, r"config.json is truncated or not JSON"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("by", ["load", "resume"])
def test_a_damaged_file_is_one_sentence_that_names_it(tmp_path, train, name, damage, message, by):
    train(tmp_path)
    damage(tmp_path / name)
    before = _tree(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path) if by == "load" else train(tmp_path, resume=True)
    assert _tree(tmp_path) == before


def test_the_way_out_of_a_damaged_checkpoint_is_the_one_before_it(tmp_path, train, equal):
    whole = train(tmp_path)
    _truncated(tmp_path / STEP / "optimiser.safetensors")
    with pytest.raises(CheckpointError, match="Delete the folder step-0000006 to go back to the checkpoint before it"):
        train(tmp_path, resume=True)
    shutil.rmtree(tmp_path / STEP)
    assert equal(whole, train(tmp_path, resume=True))


def test_an_optimiser_of_another_network_is_refused(tmp_path, train):
    train(tmp_path)
    file = tmp_path / STEP / "optimiser.safetensors"
    file.unlink()
    save_file({"exp_avg.nobody": torch.zeros(3)}, file)
    with pytest.raises(
        CheckpointError, match=r"optimiser.safetensors belongs to another network: it has 'exp_avg.nobody'"
    ):
        train(tmp_path, resume=True)


def test_a_newer_format_is_refused(tmp_path, train):
    train(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": 2}))
    with pytest.raises(CheckpointError, match=r"has format 2, this rheos reads up to 1. Update rheos"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: None, RunError, r"is not a directory. Give the directory that train.fit wrote"),
        (lambda p: p.mkdir(), RunError, r"holds no run \(no config.json\)"),
        (lambda p: (p.mkdir(), (p / "config.json").write_text("[]")), CheckpointError, r"is no file of rheos"),
        (lambda p: (p.mkdir(), (p / "config.json").write_text('{"steps": 1}')), CheckpointError,
         r"is no run of rheos: it lacks data, field, format, objective, options"),
    ],
)  # fmt: skip
def test_what_is_no_run_is_refused(tmp_path, make, error, message):
    make(tmp_path / "x")
    with pytest.raises(error, match=message):
        load(tmp_path / "x")


def test_a_run_without_checkpoints_cannot_go_on(tmp_path, train):
    run = train(tmp_path / "run")
    run.save(tmp_path / "saved")
    with pytest.raises(RunError, match="holds a run without checkpoints"):
        train(tmp_path / "saved", resume=True)
    assert read_config(tmp_path / "saved")["steps"] == 6
