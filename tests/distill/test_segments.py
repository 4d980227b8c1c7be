"""Segment stores: what they hold, who may fill them, and what they refuse."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rheos.core import Draws, Field, GaussianMixtureField
from rheos.core.errors import DataError, NonFiniteError, OptionError, RunError, TimeError
from rheos.distill import SegmentRecipe, SegmentStore, generate_segments
from rheos.sample import draw_solution
from strategies import Wall

TIMES = (0.0, 0.25, 0.75, 1.0)
RECIPE = SegmentRecipe(steps=8, chunk=5)


@pytest.fixture
def flow():
    return GaussianMixtureField(means=[[-2.0, 0.0], [2.0, 0.0]], stds=[0.5, 0.5])


def test_a_store_holds_the_states_of_its_seeds_at_its_times(flow, tmp_path):
    store = generate_segments(flow, tmp_path / "s", 12, TIMES, recipe=RECIPE)
    assert (len(store), store.segments, store.times, store.complete) == (12, 3, TIMES, True)
    fine = draw_solution(flow, 12, steps=8, solver="euler", seed=store.column("seed"), trace=True).path
    for k, at in enumerate((0, 2, 6, 8)):
        torch.testing.assert_close(store.states(k), fine[at])
    assert torch.equal(store.states(0), Draws(store.column("seed")).normal(torch.empty(12, 2), "source"))


def test_all_segments_of_all_rows_are_the_data_and_nothing_is_copied(flow, tmp_path):
    store = generate_segments(flow, tmp_path / "s", 4, TIMES, recipe=RECIPE)
    data = store.data()
    assert len(data) == 12
    batch = data.batch(torch.arange(12))
    for k in range(3):
        rows = slice(4 * k, 4 * k + 4)
        assert torch.equal(batch.cond["x_s"][rows], store.states(k))
        assert torch.equal(batch.x[rows], store.states(k + 1))
        assert batch.cond["s"][rows].unique().tolist() == [TIMES[k]]
        assert batch.cond["t"][rows].unique().tolist() == [TIMES[k + 1]]
    assert data.x.untyped_storage().data_ptr() == data.columns["x_s"].untyped_storage().data_ptr()
    assert data.delivers is None
    assert data.shape == (2,)


def test_every_time_of_the_fine_grid_is_kept_unless_told_and_every_second_one_for_progressive_halving(flow, tmp_path):
    every = generate_segments(flow, tmp_path / "a", 3, recipe=RECIPE)
    halved = generate_segments(flow, tmp_path / "b", 3, every.times[::2], recipe=RECIPE)
    assert (every.segments, halved.segments) == (8, 4)
    for k in range(5):
        assert torch.equal(halved.states(k), every.states(2 * k))


def test_a_store_at_some_of_its_times_is_the_store_that_was_made_for_them(flow, tmp_path):
    every = generate_segments(flow, tmp_path / "a", 12, recipe=RECIPE)
    some = generate_segments(flow, tmp_path / "b", 12, TIMES, recipe=RECIPE)
    for view in (every.at(TIMES), every.at(every.times[::2]).at(TIMES), every.at(TIMES).again()):
        assert (view.times, view.segments, len(view)) == (TIMES, 3, 12)
        one, other = view.data(), some.data()
        assert torch.equal(one.x, other.x)
        assert all(torch.equal(one.columns[name], other.columns[name]) for name in ("x_s", "s", "t"))
    assert every.segments == 8  # a view leaves the store as it is
    with pytest.raises(TimeError, match=r"0\.3 is none of the 4 times of the store; the nearest is 0\.25"):
        some.at((0.0, 0.3, 1.0))


def test_an_interrupted_store_goes_on_and_equals_an_uninterrupted_one(flow, tmp_path):
    class StopError(Exception):
        pass

    def stop(done, n):
        if done >= 10:
            raise StopError

    with pytest.raises(StopError):
        generate_segments(flow, tmp_path / "a", 22, TIMES, recipe=RECIPE, progress=stop)
    half = SegmentStore(tmp_path / "a")
    assert (len(half), half.complete, len(half.data())) == (10, False, 30)
    told = []
    generate_segments(flow, tmp_path / "a", 22, TIMES, recipe=RECIPE, progress=lambda *p: told.append(p))
    assert told == [(5, 22), (10, 22), (15, 22), (20, 22), (22, 22)]
    _same(SegmentStore(tmp_path / "a"), generate_segments(flow, tmp_path / "b", 22, TIMES, recipe=RECIPE))


def test_shares_of_the_chunks_in_any_order_make_the_same_store(flow, tmp_path):
    for k in (2, 0):
        part = generate_segments(flow, tmp_path / "a", 22, TIMES, recipe=RECIPE, shard=(k, 3))
        assert not part.complete
    assert len(part) == 15  # chunks 0, 2 and 3 of 5
    assert part.states(0).shape == (15, 2)
    whole = generate_segments(flow, tmp_path / "a", 22, TIMES, recipe=RECIPE, shard=(1, 3))
    _same(whole, generate_segments(flow, tmp_path / "b", 22, TIMES, recipe=RECIPE))


def test_several_makers_at_once_fill_one_store(flow, tmp_path):
    def share(k):
        return generate_segments(flow, tmp_path / "a", 40, TIMES, recipe=RECIPE, shard=(k, 4))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(share, range(4)))
    _same(SegmentStore(tmp_path / "a"), generate_segments(flow, tmp_path / "b", 40, TIMES, recipe=RECIPE))
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def _same(a, b):
    assert a.complete
    assert b.complete
    for k in range(a.segments + 1):
        assert torch.equal(a.states(k), b.states(k))
    assert torch.equal(a.column("seed"), b.column("seed"))


def to_the_right(x, cond):
    return x[:, 0] > 0


def test_a_filter_draws_what_it_refuses_anew_and_the_seeds_say_so(flow, tmp_path):
    store = generate_segments(flow, tmp_path / "a", 12, TIMES, recipe=RECIPE, keep=to_the_right)
    assert (store.states(3)[:, 0] > 0).all()
    again = draw_solution(flow, 12, steps=8, solver="euler", seed=store.column("seed")).x
    torch.testing.assert_close(store.states(3), again)
    plain = generate_segments(flow, tmp_path / "b", 12, TIMES, recipe=RECIPE)
    good = plain.states(3)[:, 0] > 0
    assert torch.equal(store.states(3)[good], plain.states(3)[good])
    assert len(store.column("seed").unique()) == 12
    with pytest.raises(RunError, match="other filter"):
        generate_segments(flow, tmp_path / "a", 12, TIMES, recipe=RECIPE)
    with pytest.raises(DataError, match="refused 5 of 5 rows 20 times"):
        generate_segments(flow, tmp_path / "c", 5, recipe=SegmentRecipe(steps=2), keep=lambda x, c: x[:, 0] > 99)


def test_conditions_and_guidance_are_those_of_the_rows(tmp_path):
    flow = GaussianMixtureField(means=[[-2.0], [2.0]], stds=[0.2, 0.2], labels=[0, 1])
    label = torch.tensor([0, 1] * 5)
    for w in (1.0, 2.0):
        recipe = SegmentRecipe(steps=20, chunk=4, guidance=w)
        store = generate_segments(flow, tmp_path / str(w), 10, (0.0, 0.5, 1.0), recipe=recipe, cond={"label": label})
        assert torch.equal(store.states(2).sign().flatten().long(), label * 2 - 1)
        assert torch.equal(store.column("label"), label)
        batch = store.data().batch(torch.arange(20))
        assert torch.equal(batch.cond["label"], label.repeat(2))
        wanted = draw_solution(flow, 10, steps=20, solver="euler", seed=store.column("seed"), label=label, guidance=w).x
        torch.testing.assert_close(store.states(2), wanted)


def test_another_recipe_teacher_or_grid_never_overwrites_a_store(flow, tmp_path):
    generate_segments(flow, tmp_path / "s", 4, TIMES, recipe=RECIPE)
    before = (tmp_path / "s" / "x.npy").read_bytes()
    for what, call in {
        "recipe": lambda: generate_segments(flow, tmp_path / "s", 4, TIMES, recipe=SegmentRecipe(steps=4)),
        "times": lambda: generate_segments(flow, tmp_path / "s", 4, (0.0, 1.0), recipe=RECIPE),
        "teacher": lambda: generate_segments(
            GaussianMixtureField(means=[[1.0, 0.0]], stds=[0.5]), tmp_path / "s", 4, TIMES, recipe=RECIPE
        ),
    }.items():
        with pytest.raises(RunError, match=f"other .*{what}"):
            call()
    assert (tmp_path / "s" / "x.npy").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(flow, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no segments"):
        generate_segments(flow, tmp_path, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_truncated_or_newer_store_is_named(flow, tmp_path):
    with pytest.raises(RunError, match="holds no segments"):
        SegmentStore(tmp_path)
    generate_segments(flow, tmp_path / "s", 4, TIMES, recipe=RECIPE)
    data, index = (tmp_path / "s" / "x.npy"), tmp_path / "s" / "segments.json"
    whole, told = data.read_bytes(), index.read_text()
    data.write_bytes(whole[:-8])
    with pytest.raises(DataError, match="cannot be read"):
        SegmentStore(tmp_path / "s")
    data.write_bytes(whole)
    index.write_text(json.dumps({**json.loads(told), "n": 5}))
    with pytest.raises(DataError, match=r"x.npy has shape \(4, 4, 2\)"):
        SegmentStore(tmp_path / "s")
    index.write_text(json.dumps({**json.loads(told), "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        SegmentStore(tmp_path / "s")
    index.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        generate_segments(flow, tmp_path / "s", 4, TIMES, recipe=RECIPE)


def test_an_empty_store_has_no_data(flow, tmp_path):
    store = generate_segments(flow, tmp_path / "s", 4, TIMES, recipe=RECIPE, shard=(1, 2))
    assert len(store) == 0
    with pytest.raises(DataError, match="is empty"):
        store.data()


def test_bad_requests_are_refused_before_anything_is_written(flow, tmp_path):
    with pytest.raises(OptionError, match="n must be at least 1"):
        generate_segments(flow, tmp_path / "s", 0)
    with pytest.raises(OptionError, match="steps and chunk"):
        SegmentRecipe(chunk=0)
    with pytest.raises(TimeError, match=r"0\.3 is none of the 9 times of the fine grid"):
        generate_segments(flow, tmp_path / "s", 2, (0.0, 0.3, 1.0), recipe=RECIPE)
    with pytest.raises(OptionError, match=r"shard is \(k, of\)"):
        generate_segments(flow, tmp_path / "s", 2, shard=(2, 2))
    with pytest.raises(OptionError, match="chooses its own steps"):
        generate_segments(flow, tmp_path / "s", 2, recipe=SegmentRecipe(solver="tsit5"))
    assert not (tmp_path / "s").exists()


def test_a_teacher_that_gives_no_numbers_leaves_no_rows(tmp_path):
    with pytest.raises(NonFiniteError, match="NaN or an infinity"):
        generate_segments(Field(Wall(), shape=(2,)), tmp_path / "s", 4, recipe=RECIPE)
    assert len(SegmentStore(tmp_path / "s")) == 0
