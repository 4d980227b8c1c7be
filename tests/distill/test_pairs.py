"""Pair stores."""

import json

import pytest
import torch

from rheos import nets
from rheos.core import Draws, Field, GaussianMixtureField
from rheos.core.errors import DataError, OptionError, RunError
from rheos.distill import PairStore, Recipe, generate, reflow
from rheos.sample import draw
from rheos.train import Options, load


@pytest.fixture
def field():
    return GaussianMixtureField(means=[[-2.0, 0.0], [2.0, 0.0]], stds=[0.5, 0.5])


def test_a_reflowed_run_read_from_its_folder_still_warns_of_the_guidance_that_it_holds(tmp_path):
    field = Field(nets.MLP(2, hidden=8, classes=2), shape=(2,))
    pairs = generate(field, tmp_path / "pairs", 16, recipe=Recipe(steps=2, guidance=2.0))
    options = Options(batch=8, sample_every=0)
    reflow(field, pairs, steps=1, out=tmp_path / "run", options=options, progress=False)
    again = load(tmp_path / "run").field
    assert again.baked == 2.0
    with pytest.warns(UserWarning, match="guidance 2 in its weights"):
        draw(again, 2, steps=1, label=0, guidance=2.0)


def test_pairs_hold_the_noise_of_their_seeds_and_where_it_flows(field, tmp_path):
    store = generate(field, tmp_path / "p", 30, recipe=Recipe(steps=8, chunk=7))
    assert store.complete
    assert len(store) == 30
    seeds = store.column("seed")
    noise = Draws(seeds).normal(torch.empty(30, 2), "source")
    assert torch.equal(store.column("x0"), noise)
    torch.testing.assert_close(store.column("x1"), draw(field, 30, steps=8, solver="heun", seed=seeds))


def test_an_interrupted_store_goes_on_and_equals_an_uninterrupted_one(field, tmp_path):
    class StopError(Exception):
        pass

    def stop(done, n):
        if done >= 10:
            raise StopError

    recipe = Recipe(steps=4, chunk=5)
    with pytest.raises(StopError):
        generate(field, tmp_path / "a", 22, recipe=recipe, progress=stop)
    assert len(PairStore(tmp_path / "a")) == 10
    assert not PairStore(tmp_path / "a").complete
    continued = generate(field, tmp_path / "a", 22, recipe=recipe)
    whole = generate(field, tmp_path / "b", 22, recipe=recipe)
    for name in ("x0", "x1", "seed"):
        assert torch.equal(continued.column(name), whole.column(name))


def test_batches_carry_the_noise_beside_the_sample(field, tmp_path):
    store = generate(field, tmp_path / "p", 12, recipe=Recipe(steps=2))
    batch = store.data().batch(torch.tensor([3, 1]))
    assert torch.equal(batch.x, store.column("x1")[[3, 1]])
    assert torch.equal(batch.cond["x0"], store.column("x0")[[3, 1]])


def test_labels_are_balanced_and_kept(tmp_path):
    field = GaussianMixtureField(means=[[-2.0], [2.0]], stds=[0.1, 0.1], labels=[0, 1])
    label = torch.tensor([0, 1] * 5)
    store = generate(field, tmp_path / "p", 10, recipe=Recipe(steps=20, chunk=4), cond={"label": label})
    assert torch.equal(store.column("label"), label)
    assert torch.equal(store.column("x1").sign().flatten().long(), label * 2 - 1)


def test_another_recipe_never_overwrites_a_store(field, tmp_path):
    generate(field, tmp_path / "p", 4, recipe=Recipe(steps=2))
    before = (tmp_path / "p" / "x1.npy").read_bytes()
    with pytest.raises(RunError, match="another recipe"):
        generate(field, tmp_path / "p", 4, recipe=Recipe(steps=3))
    assert (tmp_path / "p" / "x1.npy").read_bytes() == before


def test_pairs_of_another_teacher_or_other_conditions_are_not_taken_for_these(field, tmp_path):
    generate(field, tmp_path / "p", 4, recipe=Recipe(steps=2))
    other = GaussianMixtureField(means=[[5.0, 0.0]], stds=[0.5])
    with pytest.raises(RunError, match="other teacher"):
        generate(other, tmp_path / "p", 4, recipe=Recipe(steps=2))
    classes = GaussianMixtureField(means=[[-2.0], [2.0]], stds=[0.1, 0.1], labels=[0, 1])
    for k in (0, 1):
        label = {"label": torch.full((4,), k)}
        if k == 0:
            generate(classes, tmp_path / "q", 4, recipe=Recipe(steps=2), cond=label)
        else:
            with pytest.raises(RunError, match="other teacher"):
                generate(classes, tmp_path / "q", 4, recipe=Recipe(steps=2), cond=label)


def test_a_folder_of_something_else_is_left_alone(field, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no pairs"):
        generate(field, tmp_path, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_truncated_or_newer_store_is_named(field, tmp_path):
    with pytest.raises(RunError, match="holds no pairs"):
        PairStore(tmp_path)
    generate(field, tmp_path / "p", 4, recipe=Recipe(steps=2))
    data = (tmp_path / "p" / "x1.npy").read_bytes()
    (tmp_path / "p" / "x1.npy").write_bytes(data[:-8])
    with pytest.raises(DataError, match="cannot be read"):
        PairStore(tmp_path / "p")
    (tmp_path / "p" / "x1.npy").write_bytes(data)
    index = json.loads((tmp_path / "p" / "store.json").read_text())
    (tmp_path / "p" / "store.json").write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        PairStore(tmp_path / "p")


def test_bad_options_are_refused_before_anything_is_written(field, tmp_path):
    with pytest.raises(OptionError, match="n must be at least 1"):
        generate(field, tmp_path / "p", 0)
    with pytest.raises(OptionError, match="steps and chunk"):
        Recipe(steps=0)
    field.shape = None
    with pytest.raises(OptionError, match="does not know the shape"):
        generate(field, tmp_path / "p", 4)
    assert not (tmp_path / "p").exists()
