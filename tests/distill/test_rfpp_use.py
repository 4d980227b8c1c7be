"""One-round reflow as a whole: stores, resuming, real pairs, and what is refused."""

import json

import pytest
import torch
from torch import nn

from rheos import core, nets, train
from rheos.core import AffinePath, Draws, Field, GaussianMixtureField, row_seeds
from rheos.core.errors import (
    ConditionError,
    OptionError,
    RunError,
    ShapeError,
    UnknownOptionError,
)
from rheos.data import load
from rheos.distill import (
    MixedPairs,
    PairStore,
    Recipe,
    Rectification,
    generate,
    given_pairs,
    heun_steps,
    invert_pairs,
    rfpp,
)
from rheos.metrics import straightness
from rheos.sample import draw, solve
from strategies import mixture, randn

QUICK = train.Options(batch=32, lr=1e-3, sample_every=0, save_every=0, log_every=5)


def teacher(**options):
    torch.manual_seed(0)
    return Field(nets.MLP(2, hidden=16, depth=2, **options), shape=(2,), value_range=None)


def edm(sigma_data=0.5, classes=0):
    """A preconditioned network on EDM's own schedule, in float64."""
    torch.manual_seed(1)
    net = nets.EDM(nets.MLP(2, hidden=16, depth=2, time_features=8, classes=classes), "edm", sigma_data)
    return Field(net, AffinePath("edm", sigma_data=sigma_data), "edm", shape=(2,)).double()


def test_samples_kept_as_bytes_are_rounded_to_the_nearest_level(tmp_path):
    field = GaussianMixtureField(means=[[-0.5, 0.2]], stds=[0.1])
    field.value_range = (-1.0, 1.0)
    fine = generate(field, tmp_path / "a", 20, recipe=Recipe(steps=4))
    coarse = generate(field, tmp_path / "b", 20, recipe=Recipe(steps=4, store="uint8"))
    assert float((coarse.column("x1") - fine.column("x1")).abs().max()) <= 1 / 255 + 1e-6
    assert torch.equal(coarse.data().batch(torch.arange(20)).x, coarse.column("x1"))
    assert torch.equal(coarse.rows(torch.arange(20))[1], coarse.column("x1"))
    field.value_range = None
    with pytest.raises(OptionError, match="Bytes need a range"):
        generate(field, tmp_path / "c", 20, recipe=Recipe(store="uint8"))
    with pytest.raises(UnknownOptionError, match="noise 'seeds' is unknown"):
        Recipe(noise="seeds")


def test_a_store_of_the_older_format_goes_on_being_read_and_is_recognised(tmp_path):
    field = mixture()
    recipe = Recipe(steps=2)
    generate(field, tmp_path / "p", 6, recipe=recipe)
    index = tmp_path / "p" / "store.json"
    about = json.loads(index.read_text())
    about |= {"format": 1, "done": 6}
    del about["filter"]
    (tmp_path / "p" / "done.npy").unlink()
    for name in ("grid", "noise", "store"):
        del about["recipe"][name]
    index.write_text(json.dumps(about))
    assert len(PairStore(tmp_path / "p")) == 6
    assert len(generate(field, tmp_path / "p", 6, recipe=recipe)) == 6
    assert not PairStore(tmp_path / "p").seeded


def test_noise_of_a_path_that_begins_louder_is_of_unit_variance(tmp_path):
    """On EDM's path a flow begins at 80 times unit noise; what reflow pairs with the sample is the unit noise."""
    field = GaussianMixtureField(means=[[0.5, 0.0]], stds=[0.3], path="edm")
    store = generate(field, tmp_path / "p", 40, recipe=Recipe(steps=100, grid="edm"))
    assert torch.equal(store.column("x0"), Draws(store.column("seed")).normal(torch.empty(40, 2), "source"))
    # the exact flow of one Gaussian: std * noise + mean
    want = 0.3 * store.column("x0") + torch.tensor([0.5, 0.0])
    assert torch.allclose(store.column("x1"), want, atol=0.01)  # Heun's error at 100 steps is half of that


def test_inverted_data_lie_in_the_store_with_the_noise_that_flows_to_them(tmp_path):
    field = GaussianMixtureField(means=[[1.0, -1.0]], stds=[0.5])
    x = field.sample_data(30).float()
    store = invert_pairs(field, load(x.numpy(), range="raw"), tmp_path / "p", recipe=Recipe(steps=40, chunk=8))
    assert torch.equal(store.column("x1"), x)
    z = (x - torch.tensor([1.0, -1.0])) / 0.5  # the exact flow of one Gaussian, backwards
    assert torch.allclose(store.column("x0"), z, atol=2e-3)
    assert torch.equal(store.column("seed"), torch.arange(30))
    with pytest.raises(OptionError, match="belongs to no seed"):
        invert_pairs(field, load(x.numpy(), range="raw"), tmp_path / "q", recipe=Recipe(noise="seed"))
    with pytest.raises(RunError, match="other data"):
        invert_pairs(field, load(x.numpy() + 1, range="raw"), tmp_path / "p", recipe=Recipe(steps=40, chunk=8))
    with pytest.raises(ShapeError, match=r"shape \(2,\), the data have \(3,\)"):
        invert_pairs(field, load(torch.zeros(4, 3).numpy(), range="raw"), tmp_path / "r")


def test_inverted_noise_of_a_louder_path_is_of_unit_variance(tmp_path):
    field = GaussianMixtureField(means=[[0.0, 0.0]], stds=[0.5], path="edm")
    x = field.sample_data(20).float()
    recipe = Recipe(steps=200, grid="edm")
    store = invert_pairs(field, load(x.numpy(), range="raw"), tmp_path / "p", recipe=recipe)
    assert torch.allclose(store.column("x0"), x / 0.5, atol=0.01)  # Heun's error at 200 steps is a third of that


def test_conditions_go_into_inversion_and_store(tmp_path):
    field = GaussianMixtureField(means=[[-2.0, 0.0], [2.0, 0.0]], stds=[0.5, 0.5], labels=[0, 1])
    label = torch.tensor([0, 1] * 5)
    x = torch.stack((4.0 * label - 2.0, torch.zeros(10)), 1)
    data = load({"x": x.numpy(), "label": label.numpy()}, range="raw")
    store = invert_pairs(field, data, tmp_path / "p", recipe=Recipe(steps=20))
    assert torch.equal(store.column("label"), label)
    assert torch.allclose(store.column("x0"), torch.zeros(10, 2), atol=1e-3)  # each is the mean of its own class
    with pytest.raises(ConditionError, match="takes label, which the data do not carry"):
        invert_pairs(field, load(x.numpy(), range="raw"), tmp_path / "q")


def test_mixed_batches_have_exactly_their_share_of_whole_real_pairs(tmp_path):
    field = GaussianMixtureField(means=[[0.0, 0.0]], stds=[0.5])
    store = invert_pairs(field, load((torch.rand(9, 2) + 100).numpy(), range="raw"), tmp_path / "real")
    real0, real1 = store.column("x0"), store.column("x1")
    law = MixedPairs(str(tmp_path / "real"), 0.25)
    x0, x1 = randn(16, 2, seed=1).float(), randn(16, 2, seed=2).float()
    draws = Draws(row_seeds(0, 16))
    pairs = law(x0, x1, {}, draws)
    assert torch.equal(pairs.x0[4:], x0[4:])
    assert torch.equal(pairs.x1[4:], x1[4:])
    for a, b in zip(pairs.x0[:4], pairs.x1[:4], strict=True):
        row = int((real1 == b).all(1).nonzero())
        assert torch.equal(real0[row], a)
    assert torch.equal(law(x0, x1, {}, draws).x1, pairs.x1)  # keyed
    assert not torch.equal(law(x0, x1, {}, Draws(row_seeds(1, 16))).x1, pairs.x1)
    assert torch.equal(MixedPairs(str(tmp_path / "real"), 0.0)(x0, x1, {}, draws).x1, x1)
    with pytest.raises(ConditionError, match=r"conditions \[\], the batch \['label'\]"):
        law(x0, x1, {"label": torch.zeros(16)}, draws)
    with pytest.raises(ShapeError, match=r"rows of shape \(2,\), the batch \(3,\)"):
        law(torch.zeros(16, 3), torch.zeros(16, 3), {}, draws)
    with pytest.raises(ShapeError, match="not states of several parts"):
        law({"a": x0}, {"a": x1}, {}, draws)
    with pytest.raises(OptionError, match=r"fraction must lie in \[0, 1\]"):
        MixedPairs("p", 1.5)


def test_pairs_of_ones_own_must_fit_each_other():
    x = torch.zeros(4, 2)
    data = given_pairs(x, x + 1, label=torch.tensor([0, 1, 0, 1]))
    batch = data.batch(torch.tensor([1]))
    assert batch.cond["label"].tolist() == [1]
    assert data.classes == 2
    with pytest.raises(ShapeError, match=r"noise like samples, got \(3, 2\) and \(4, 2\)"):
        given_pairs(x[:3], x)
    with pytest.raises(ConditionError, match="label has 3 rows for 4 pairs"):
        given_pairs(x, x, label=torch.zeros(3, dtype=torch.int64))


def test_heuns_budget_is_odd():
    assert [heun_steps(n) for n in (1, 3, 35, 79)] == [1, 2, 18, 40]
    for n in (0, 2, 36):
        with pytest.raises(OptionError, match=f"odd number in all, got {n}"):
            heun_steps(n)


def test_pairs_of_the_exact_gaussian_map_make_a_flow_that_one_euler_step_solves():
    """x1 = 2 x0 + 1 of one Gaussian: the optimal velocity is x1 - x0 along the line, which a linear net represents."""

    class Line(nn.Module):
        """v = a(t) x + b(t) with what the closed form needs: x0 = (x - t) / (1 + t), v = x0 + 1."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.5))

        def forward(self, x, t):
            x0 = (x - t[:, None]) / (1 + t[:, None])
            return self.a * x0 + self.b

    x0 = randn(512, 2, dtype=torch.float32)
    pairs = given_pairs(x0, 2 * x0 + 1)
    field = Field(Line(), shape=(2,))
    options = train.Options(batch=128, lr=0.05, sample_every=0, save_every=0, log_every=100, ema=0.0)
    run = rfpp(field, pairs=pairs, steps=300, how=Rectification("l2_squared"), options=options, progress=False)
    z = randn(20, 2, dtype=torch.float32, seed=9)
    one = solve(run.field, z, (0.0, 1.0), "euler").x
    assert torch.allclose(one, 2 * z + 1, atol=1e-3)  # what 300 steps leave of the optimiser's way
    walk = solve(run.field, z, [k / 8 for k in range(9)], "euler", trace=True)
    assert straightness(walk.path, torch.tensor(walk.times)) < 1e-5
    assert not run.field.gaussian


def test_the_whole_call_goes_on_where_it_was_and_its_parts_lie_beside_each_other(tmp_path):
    data = load("moons", limit=64)
    field = teacher()
    given = {"pairs": 64, "steps": 4, "evaluations": 3, "options": QUICK, "progress": False}
    first = rfpp(field, data, out=tmp_path / "run", **given)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["flow", "pairs"]
    store = PairStore(tmp_path / "run" / "pairs")
    assert store.about["recipe"]["solver"] == "heun-edm"
    assert store.seeded
    again = rfpp(field, data, out=tmp_path / "run", **given)
    tuned = rfpp(field, data, out=tmp_path / "run", real_fraction=0.5, **given)
    for a, b in zip(first.field.parameters(), again.field.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["flow", "pairs", "real", "tuned"]
    assert tuned.options.lr == pytest.approx(QUICK.lr / 10)
    assert tuned.step == 1
    assert tuned.objective.coupling == MixedPairs(str(tmp_path / "run" / "real"), 0.5)
    loaded = train.load(tmp_path / "run" / "flow")
    assert loaded.objective == first.objective
    assert torch.equal(draw(loaded.field, 3, steps=1, solver="euler"), draw(first.field, 3, steps=1, solver="euler"))


def test_a_call_in_memory_equals_one_on_disk(tmp_path):
    given = {"pairs": 32, "steps": 3, "evaluations": 3, "options": QUICK, "progress": False}
    kept = rfpp(teacher(), out=tmp_path / "run", **given)
    passed = rfpp(teacher(), **given)
    for a, b in zip(kept.field.parameters(), passed.field.parameters(), strict=True):
        assert torch.equal(a, b)
    assert passed.path is None


def test_pairs_never_have_the_noise_that_the_runs_own_seed_draws(tmp_path):
    rfpp(teacher(), out=tmp_path / "run", pairs=50, steps=1, evaluations=1, options=QUICK, progress=False)
    seeds = PairStore(tmp_path / "run" / "pairs").column("seed")
    assert not torch.isin(seeds, row_seeds(QUICK.seed, 50)).any()


def test_an_edm_teacher_with_classes_is_straightened_from_its_own_weights(tmp_path):
    field = edm(classes=3).float()
    run = rfpp(field, out=tmp_path / "run", pairs=30, steps=2, evaluations=3, options=QUICK, progress=False)
    store = PairStore(tmp_path / "run" / "pairs")
    assert store.column("label").bincount().tolist() == [10, 10, 10]
    assert run.field.path.law == core.Linear()
    assert run.field.predicts == "edm"
    assert run.field.net.clip == 1e-5
    assert draw(train.load(tmp_path / "run" / "flow").field, 2, steps=1, solver="euler", label=1).shape == (2, 2)


def test_a_second_round_straightens_the_first_ones_flow(tmp_path):
    how = Rectification("huber", rounds=2)
    run = rfpp(teacher(), out=tmp_path / "r", pairs=32, steps=2, evaluations=3, how=how, options=QUICK, progress=False)
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["flow", "flow-2", "pairs", "pairs-2"]
    assert run.path == tmp_path / "r" / "flow-2"
    assert (
        PairStore(tmp_path / "r" / "pairs").about["teacher"] != PairStore(tmp_path / "r" / "pairs-2").about["teacher"]
    )


def test_a_student_of_ones_own_is_trained_in_place_of_the_copy():
    mine = teacher()
    before = [p.clone() for p in mine.parameters()]
    run = rfpp(teacher(), pairs=32, steps=2, evaluations=3, student=mine, options=QUICK, progress=False)
    assert any(not torch.equal(a, b) for a, b in zip(before, mine.parameters(), strict=True))
    assert run.step == 2
    with pytest.raises(OptionError, match="student must live on the linear path"):
        rfpp(teacher(), student=edm())


def test_a_call_that_cannot_work_is_refused_before_anything_is_written(tmp_path):
    def call(**given):
        rfpp(teacher(), out=tmp_path / "run", options=QUICK, progress=False, **given)

    with pytest.raises(OptionError, match="odd number in all, got 36"):
        call(evaluations=36)
    with pytest.raises(OptionError, match=r"real_fraction must lie in \[0, 1\], got 2"):
        call(real_fraction=2.0)
    with pytest.raises(OptionError, match=r"a field does not know any. Give them: data="):
        call(real_fraction=0.5)
    with pytest.raises(OptionError, match="Given pairs are those of the first round"):
        call(pairs=given_pairs(torch.zeros(4, 2), torch.zeros(4, 2)), how=Rectification(rounds=2))
    with pytest.raises(OptionError, match=r"deliver no x0.*given_pairs"):
        call(pairs=load("moons", limit=8))
    assert not (tmp_path / "run").exists()
