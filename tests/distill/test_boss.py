"""BOSS from end to end, its baselines, and what it refuses."""

import copy
import json
from dataclasses import replace

import pytest
import torch

import rheos
from rheos.core import Field, GaussianMixtureField
from rheos.core.errors import DataError, OptionError, RunError, TimeError, UnknownOptionError
from rheos.distill import BellmanSchedule, BellmanSearch, Straightening, bellman_costs, boss, generate_segments
from rheos.nets import MLP
from rheos.sample import draw, draw_solution
from rheos.train import Options

SEARCH = BellmanSearch(anchors=12, rows=16)
HOW = Straightening(rows=24, search=SEARCH)
QUICK = Options(batch=8, sample_every=0, save_every=0)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    net = MLP(2, hidden=16, depth=2)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return Field(net, shape=(2,))


def test_the_run_steps_on_the_bellman_times_of_its_teacher(teacher, tmp_path):
    fast = boss(teacher, 3, steps=2, out=tmp_path / "fast", how=HOW, options=QUICK, progress=False)
    schedule = BellmanSchedule.load(tmp_path / "fast" / "bellman.json", teacher)
    assert fast.field.times == schedule.times == bellman_costs(teacher, SEARCH).best(3).times
    assert draw_solution(fast.field, 4, steps=3).calls == 3
    again = rheos.load(tmp_path / "fast")
    assert torch.equal(draw(again.field, 4, steps=3), draw(fast.field, 4))
    assert torch.equal(draw(fast.field, 4), draw(fast.field, 4, steps=schedule.times, solver="euler"))


def test_one_store_of_trajectories_serves_several_numbers_of_steps(teacher, tmp_path):
    costs = bellman_costs(teacher, SEARCH)
    times = sorted({t for k in (2, 3) for t in costs.best(k).times})
    store = generate_segments(teacher, tmp_path / "s", 24, times, recipe=HOW.recipe)
    for k in (2, 3):
        alone = boss(teacher, k, steps=3, how=HOW, options=QUICK, progress=False)
        shared = boss(teacher, k, steps=3, how=replace(HOW, rows=store), options=QUICK, progress=False)
        assert shared.field.times == alone.field.times
        for one, other in zip(shared.field.parameters(), alone.field.parameters(), strict=True):
            assert torch.equal(one, other)
    with pytest.raises(TimeError, match="none of the"):
        boss(teacher, 6, steps=1, how=replace(HOW, rows=store), options=QUICK, progress=False)


def test_trajectories_of_another_flow_or_guidance_are_refused(teacher, tmp_path):
    store = generate_segments(teacher, tmp_path / "s", 8, recipe=HOW.recipe)
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(DataError, match="are not of this teacher"):
        boss(other, 2, steps=1, how=replace(HOW, rows=store), progress=False)
    store.about["recipe"]["guidance"] = 2.0
    with pytest.raises(DataError, match="walked with guidance 2, the search has 1"):
        boss(teacher, 2, steps=1, how=replace(HOW, rows=store), progress=False)


def test_the_command_line_samples_on_the_runs_own_times(teacher, tmp_path, capsys):
    from rheos.cli import main

    fast = boss(teacher, 3, steps=1, out=tmp_path / "fast", how=HOW, options=QUICK, progress=False)
    words = ["sample", str(tmp_path / "fast"), "--n", "2", "--out", str(tmp_path / "x"), "--json"]
    for more in ([], ["--steps", "3"]):
        assert main([*words, *more]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["steps"], told["solver"], told["network_calls"]) == (3, "euler", 3)
        assert [float(t) for t in told["grid"].split(",")] == list(fast.field.times)
    assert main([*words, "--steps", "4"]) != 0
    assert "made for its own 3 steps" in capsys.readouterr().err


def test_it_begins_as_the_teacher_and_the_teacher_stays_as_it_was(teacher):
    before = {n: v.clone() for n, v in teacher.state_dict().items()}
    fast = boss(teacher, 2, steps=1, how=HOW, options=Options(batch=8, lr=1e-12, ema=0.0), progress=False)
    for name, value in fast.field.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-10)
    assert all(torch.equal(v, before[n]) for n, v in teacher.state_dict().items())
    assert teacher.times is None


def test_tuning_lowers_the_end_point_error_of_its_steps(teacher):
    options = Options(batch=64, lr=3e-3, sample_every=0, save_every=0)
    how = Straightening(rows=256, search=SEARCH)
    fast = boss(teacher, 2, steps=150, how=how, options=options, progress=False).field
    truth = draw(teacher, 200, steps=12, solver="euler", seed=7)
    bare = draw(teacher, 200, steps=fast.times, solver="euler", seed=7)
    assert float((draw(fast, 200, seed=7) - truth).square().mean()) < 0.5 * float((bare - truth).square().mean())


@pytest.mark.parametrize(
    ("grid", "times"),
    [
        ("even", (0.0, 1 / 3, 2 / 3, 1.0)),
        ("line", (0.0, 1 / 3, 2 / 3, 1.0)),
        ((0.0, 0.25, 0.5, 1.0), (0.0, 0.25, 0.5, 1.0)),
    ],
)
def test_baselines_and_times_of_ones_own_take_the_place_of_bellman_steps(teacher, grid, times, tmp_path):
    how = Straightening(rows=16, search=SEARCH, grid=grid)
    run = boss(teacher, 3, steps=1, out=tmp_path / "r", how=how, options=QUICK, progress=False)
    assert run.field.times == pytest.approx(times)
    assert not (tmp_path / "r" / "costs.json").exists()
    positions = 3 if grid == "line" else 1
    assert run.config["objective"]["positions"] == positions


def test_an_interrupted_straightening_goes_on_and_ends_alike(teacher, tmp_path):
    once = boss(teacher, 3, steps=6, out=tmp_path / "a", how=HOW, options=QUICK, progress=False)
    boss(teacher, 3, steps=3, out=tmp_path / "b", how=HOW, options=Options(
        batch=8, sample_every=0, save_every=0, decay="constant", warmup=0), progress=False)  # fmt: skip
    stamp = (tmp_path / "b" / "costs.json").stat().st_mtime_ns
    made = (tmp_path / "b" / "segments" / "x.npy").stat().st_mtime_ns
    boss(teacher, 3, steps=6, out=tmp_path / "b", how=HOW, options=Options(
        batch=8, sample_every=0, save_every=0, decay="constant", warmup=0), progress=False)  # fmt: skip
    assert (tmp_path / "b" / "costs.json").stat().st_mtime_ns == stamp
    assert (tmp_path / "b" / "segments" / "x.npy").stat().st_mtime_ns == made
    assert once.step == rheos.load(tmp_path / "b").step == 6
    coarser = Straightening(rows=24, search=BellmanSearch(anchors=6, rows=16))
    with pytest.raises(RunError, match="segments of another recipe"):
        boss(teacher, 3, steps=6, out=tmp_path / "b", how=coarser, options=QUICK, progress=False)


def test_costs_of_another_teacher_in_the_folder_are_measured_again(teacher, tmp_path):
    other = Field(MLP(2, hidden=4), shape=(2,))
    bellman_costs(other, SEARCH).save(tmp_path / "r" / "costs.json")
    run = boss(teacher, 3, steps=1, out=tmp_path / "r", how=HOW, options=QUICK, progress=False)
    assert run.field.times == bellman_costs(teacher, SEARCH).best(3).times
    BellmanSchedule.load(tmp_path / "r" / "bellman.json", teacher)


def test_classes_are_balanced_and_guidance_is_baked_in():
    torch.manual_seed(0)
    field = Field(MLP(2, hidden=8, depth=1, classes=3), shape=(2,))
    how = Straightening(rows=12, search=BellmanSearch(anchors=6, rows=6, guidance=2.0))
    fast = boss(field, 2, steps=1, how=how, options=QUICK, progress=False)
    assert draw(fast.field, 4, label=1).shape == (4, 2)
    with pytest.raises(OptionError, match="hold their guidance already"):
        draw(fast.field, 4, label=1, guidance=2.0)


def test_a_field_on_a_curved_schedule_that_predicts_noise_is_straightened_inside_its_finite_range():
    torch.manual_seed(0)
    field = Field(MLP(2, hidden=8, depth=1), "vp", "noise", shape=(2,))
    fast = boss(field, 3, steps=1, how=HOW, options=QUICK, progress=False).field
    assert (fast.times[0], fast.times[-1]) == (field.finite[0], 1.0)  # Euler does not ask where it ends
    assert draw(fast, 4, steps=3).isfinite().all()


def test_adapters_alone_are_trained_and_the_run_is_read_again(teacher, tmp_path):
    how = Straightening(rows=24, search=SEARCH, lora=2)
    fast = boss(teacher, 3, steps=3, out=tmp_path / "r", how=how, options=QUICK, progress=False)
    state = fast.field.net.net.state_dict()
    for name, value in teacher.net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        torch.testing.assert_close(state[f"{layer}.base_layer.{kind}"], value, rtol=0, atol=0)
    assert any(float(v.abs().max()) > 0 for n, v in state.items() if "lora_B" in n)
    again = rheos.load(tmp_path / "r").field
    assert torch.equal(draw(again, 4), draw(fast.field, 4))
    plain = Field(again.net.merged(), shape=(2,), times=again.times)
    torch.testing.assert_close(draw(plain, 4), draw(again, 4))


@pytest.mark.parametrize("k", [0, 13, True])
def test_more_evaluations_than_anchors_or_none_are_refused(teacher, k):
    with pytest.raises(OptionError, match="from 1 to the 12 steps"):
        boss(teacher, k, how=HOW)


def test_what_cannot_be_straightened_is_refused_before_anything_is_walked(teacher, tmp_path):
    fast = boss(teacher, 2, steps=1, how=HOW, options=QUICK, progress=False)
    with pytest.raises(OptionError, match="straightened already, for 2 steps"):
        boss(fast, 2, how=HOW)
    with pytest.raises(OptionError, match="draws noise"):
        boss(teacher, 2, how=Straightening(search=BellmanSearch(solver="ddpm")))
    with pytest.raises(TimeError, match=r"0\.3 is none of the 13 anchors"):
        boss(teacher, 2, out=tmp_path / "r", how=Straightening(search=SEARCH, grid=(0.0, 0.3, 1.0)))
    with pytest.raises(OptionError, match="3 evaluations need 4 times, got 3"):
        boss(teacher, 3, how=Straightening(search=SEARCH, grid=(0.0, 0.5, 1.0)))
    with pytest.raises(OptionError, match="Adapters are made for a plain Field"):
        boss(GaussianMixtureField(means=[[0.0]], stds=[1.0]), 2, how=Straightening(search=SEARCH, lora=2))
    with pytest.raises(OptionError, match="rows is at least 1 and lora at least 0"):
        Straightening(lora=-1)
    with pytest.raises(UnknownOptionError, match="grid 'belman'"):
        Straightening(grid="belman")
    assert not (tmp_path / "r").exists()
