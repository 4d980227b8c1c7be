"""Pair stores that several processes fill, filters, damaged stores, and pairs of somebody else."""

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rheos.core import Field, GaussianMixtureField
from rheos.core.errors import DataError, NonFiniteError, OptionError, RunError
from rheos.data import load
from rheos.distill import (
    PairStore,
    Recipe,
    Rectification,
    SegmentRecipe,
    SegmentStore,
    Stages,
    distil,
    generate,
    generate_segments,
    instaflow,
    invert_pairs,
    reflow,
    rfpp,
)
from rheos.distill.mdt_dist import transport
from rheos.nets import MLP
from rheos.sample import draw
from rheos.train import Options
from strategies import Wall

RECIPE = Recipe(steps=4, chunk=5)
QUICK = Options(batch=16, sample_every=0, save_every=0, log_every=10)


@pytest.fixture
def flow():
    return GaussianMixtureField(means=[[-2.0, 0.0], [2.0, 0.0]], stds=[0.5, 0.5])


def learned(classes: int = 0) -> Field:
    torch.manual_seed(0)
    return Field(MLP(2, hidden=8, depth=1, classes=classes), shape=(2,))


def same(a: PairStore, b: PairStore) -> None:
    assert a.complete
    assert b.complete
    for name in ("x0", "x1", "seed"):
        assert torch.equal(a.column(name), b.column(name))


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [RECIPE, Recipe(steps=4, chunk=5, noise="seed")])
def test_shares_of_the_chunks_in_any_order_make_the_same_store(flow, tmp_path, recipe):
    whole = generate(flow, tmp_path / "b", 22, recipe=recipe)
    for k in (2, 0):
        part = generate(flow, tmp_path / "a", 22, recipe=recipe, shard=(k, 3))
        assert not part.complete
    there = torch.tensor([*range(5), *range(10, 20)])  # chunks 0, 2 and 3 of 5
    assert len(part) == 15
    assert torch.equal(part.column("x1"), whole.column("x1")[there])
    assert torch.equal(part.data().batch(torch.tensor([5])).x, whole.column("x1")[[10]])
    assert torch.equal(part.rows(torch.tensor([5]))[0], whole.column("x0")[[10]])
    same(generate(flow, tmp_path / "a", 22, recipe=recipe, shard=(1, 3)), whole)
    with pytest.raises(OptionError, match=r"shard is \(k, of\)"):
        generate(flow, tmp_path / "c", 22, recipe=recipe, shard=(3, 3))


def test_several_makers_at_once_fill_one_store(flow, tmp_path):
    def part(k):
        return generate(flow, tmp_path / "a", 60, recipe=RECIPE, shard=(k, 4))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(part, range(4)))
    same(PairStore(tmp_path / "a"), generate(flow, tmp_path / "b", 60, recipe=RECIPE))
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_real_pairs_are_shared_too(flow, tmp_path):
    data = load(flow.sample_data(12).float().numpy(), range="raw")
    for k in (1, 0):
        part = invert_pairs(flow, data, tmp_path / "a", recipe=RECIPE, shard=(k, 2))
    same(part, invert_pairs(flow, data, tmp_path / "b", recipe=RECIPE))


WORKER = """
import sys, torch
from rheos import nets
from rheos.core import Field
from rheos.distill import Recipe, Rectification, Stages, instaflow, rfpp
from rheos.train import Options
torch.manual_seed(0)
flow = Field(nets.MLP(2, hidden=8, depth=1), shape=(2,))
quick = Options(batch=16, sample_every=0, save_every=0, log_every=10)
small = Recipe(steps=2, chunk=8)
how = Stages(pairs=40, steps=2, distil=2, polish=0, teacher=small, straight=Recipe(steps=2, solver="euler", chunk=8))
instaflow(flow, how=how, out=sys.argv[1] + "/i", options=quick, progress=False)
rfpp(flow, how=Rectification("huber"), pairs=600, steps=2, evaluations=1, out=sys.argv[1] + "/r", options=quick,
     progress=False)
"""


@pytest.mark.distributed
def test_two_processes_of_a_launcher_share_the_pairs_of_a_method(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "worker.py"), str(tmp_path)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name, n in (("i/pairs-0", 40), ("i/pairs-1", 40), ("r/pairs", 600)):
        store = PairStore(tmp_path / name)
        assert store.complete
        assert len(store) == n
    how = Recipe(**PairStore(tmp_path / "i/pairs-0").about["recipe"])
    same(PairStore(tmp_path / "i/pairs-0"), generate(learned(), tmp_path / "own", 40, recipe=how))


# --- filters ----------------------------------------------------------------------------------------------------------


def to_the_right(x, cond):
    return x[:, 0] > 0


@pytest.mark.parametrize("noise", ["stored", "seed"])
def test_a_filter_draws_what_it_refuses_anew_and_the_seeds_say_so(flow, tmp_path, noise):
    recipe = Recipe(steps=4, chunk=5, noise=noise)
    store = generate(flow, tmp_path / "a", 12, recipe=recipe, keep=to_the_right)
    assert (store.column("x1")[:, 0] > 0).all()
    again = draw(flow, 12, steps=4, solver="heun", seed=store.column("seed"))
    torch.testing.assert_close(store.column("x1"), again)
    plain = generate(flow, tmp_path / "b", 12, recipe=recipe)
    good = plain.column("x1")[:, 0] > 0
    assert torch.equal(store.column("x1")[good], plain.column("x1")[good])
    assert torch.equal(store.column("x0")[good], plain.column("x0")[good])
    for folder, keep in (("a", None), ("b", to_the_right)):
        with pytest.raises(RunError, match="other filter"):
            generate(flow, tmp_path / folder, 12, recipe=recipe, keep=keep)
    with pytest.raises(DataError, match="refused 5 of 5 rows 20 times"):
        generate(flow, tmp_path / "c", 5, recipe=recipe, keep=lambda x, c: x[:, 0] > 99)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_file_that_was_cut_off_is_named_by_readers_and_writers(flow, tmp_path):
    def pairs():
        return generate(flow, tmp_path / "p", 8, recipe=RECIPE)

    def segments():
        return generate_segments(flow, tmp_path / "s", 8, recipe=SegmentRecipe(steps=4))

    for make, read, name, file in (
        (pairs, PairStore, "p", "x1"),
        (pairs, PairStore, "p", "done"),
        (segments, SegmentStore, "s", "x"),
        (segments, SegmentStore, "s", "seed"),
    ):
        make()
        path = tmp_path / name / f"{file}.npy"
        whole = path.read_bytes()
        for damaged in (whole[:-1], b""):
            path.write_bytes(damaged)
            for use in (make, lambda read=read, name=name: read(tmp_path / name)):
                with pytest.raises(DataError, match=rf"{file}\.npy cannot be read"):
                    use()
        path.write_bytes(whole)


def test_more_rows_than_there_are_and_numbers_that_are_none_are_named(flow, tmp_path):
    generate(flow, tmp_path / "p", 8, recipe=RECIPE)
    index = tmp_path / "p" / "store.json"
    about = json.loads(index.read_text())
    np.save(tmp_path / "p" / "done.npy", np.ones(9, np.uint8))
    with pytest.raises(DataError, match=r"done.npy has shape \(9,\), not \(2,\)"):
        PairStore(tmp_path / "p")
    index.write_text(json.dumps({**about, "format": 2, "done": 9}))
    for use in (lambda: PairStore(tmp_path / "p"), lambda: generate(flow, tmp_path / "p", 8, recipe=RECIPE)):
        with pytest.raises(DataError, match="counts 9 complete rows of 8"):
            use()
    index.write_text(json.dumps({**about, "format": 2, "done": 8}))
    store = PairStore(tmp_path / "p")
    store._maps["x1"][6, 1] = float("nan")
    for use in (reflow, distil):
        with pytest.raises(DataError, match=r"x1.npy holds a NaN or an infinity in row 6"):
            use(learned(), store, steps=1)
    with pytest.raises(DataError, match="in row 6"):
        rfpp(learned(), pairs=store, steps=1)


def test_a_teacher_that_gives_no_numbers_leaves_no_rows(tmp_path):
    with pytest.raises(NonFiniteError, match="NaN or an infinity"):
        generate(Field(Wall(), shape=(2,)), tmp_path / "p", 4, recipe=RECIPE)
    assert len(PairStore(tmp_path / "p")) == 0


# --- whose pairs, and what they hold ----------------------------------------------------------------------------------


def test_pairs_of_another_teacher_and_shuffled_samples_are_refused(tmp_path):
    teacher, other = learned(), GaussianMixtureField(means=[[5.0, 0.0]], stds=[0.5])
    how = {"steps": 1, "how": Rectification("huber"), "options": QUICK, "progress": False}
    for on in (teacher, teacher.on("linear"), teacher.on("vp")):
        if on.path == teacher.path:
            store = generate(on, tmp_path / str(id(on)), 16, recipe=RECIPE)
            assert rfpp(teacher, pairs=store, **how).step == 1
    foreign = generate(other, tmp_path / "other", 16, recipe=RECIPE)
    with pytest.raises(DataError, match="not of this teacher"):
        rfpp(teacher, pairs=foreign, **how)
    assert reflow(teacher, foreign, steps=1, options=QUICK, progress=False).step == 1  # another network's own start
    store = generate(teacher, tmp_path / "mine", 16, recipe=RECIPE)
    store._maps["x1"][:] = np.roll(store._maps["x1"], 1, 0)
    for use in (lambda: rfpp(teacher, pairs=store, **how), lambda: reflow(teacher, store, steps=1, options=QUICK)):
        with pytest.raises(DataError, match="not of this teacher"):
            use()


def test_own_pairs_given_back_are_known_by_every_path_that_they_may_be_drawn_on(tmp_path):
    torch.manual_seed(0)
    for path, predicts in (("vp", "noise"), ("edm", "edm"), ("vp", "v_prediction")):
        teacher = Field(MLP(2, hidden=8, depth=1), path, predicts, shape=(2,))
        how = {"steps": 1, "how": Rectification("huber"), "options": QUICK, "progress": False}
        rfpp(teacher, pairs=16, evaluations=3, out=tmp_path / path / predicts, **how)
        assert rfpp(teacher, pairs=tmp_path / path / predicts / "pairs", **how).step == 1


def test_guidance_of_the_pairs_is_in_the_student_which_warns_of_more(tmp_path):
    teacher = learned(classes=2)
    label = torch.arange(16) % 2
    store = generate(teacher, tmp_path / "p", 16, recipe=Recipe(steps=2, guidance=3.0), cond={"label": label})
    plain = generate(teacher, tmp_path / "q", 16, recipe=Recipe(steps=2), cond={"label": label})
    quick = {"steps": 1, "options": QUICK, "progress": False}
    for run in (reflow(teacher, store, **quick), rfpp(teacher, pairs=store, how=Rectification("huber"), **quick)):
        assert run.field.baked == 3.0
        with pytest.warns(UserWarning, match="trained with guidance 3 in its weights"):
            draw(run.field, 2, label=1, guidance=2.0, steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(reflow(teacher, plain, **quick).field, 2, label=1, guidance=2.0, steps=2)
        draw(reflow(teacher, store, dropout=0.1, **quick).field, 2, label=1, guidance=1.5, steps=2)


def test_a_student_of_few_steps_is_no_teacher_and_the_way_out_is_named(tmp_path):
    store = generate(learned(), tmp_path / "p", 16, recipe=RECIPE)
    fast = distil(learned(), store, steps=1, schedule=2, options=QUICK, progress=False).field
    for use in (
        lambda: instaflow(fast, how=Stages(pairs=16)),
        lambda: rfpp(fast, pairs=16),
        lambda: generate(fast, tmp_path / "q", 16),
    ):
        with pytest.raises(OptionError, match=r"made for its own 2 steps.*Distil the flow that it came from"):
            use()
    assert generate(fast, tmp_path / "q", 16, recipe=Recipe(steps=2, solver="euler")).complete
    jump = transport(learned())
    for use in (lambda: instaflow(jump, how=Stages(pairs=16)), lambda: rfpp(jump, pairs=16)):
        with pytest.raises(OptionError, match=r"TransportField jumps to the data.*Distil the flow that it came from"):
            use()
