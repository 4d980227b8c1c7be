"""2-Rectified Flow++: the re-timed teacher, its loss, its pairs, and the whole call."""

import json
import math
import sys
from importlib import import_module

import pytest
import torch
from torch import nn

from rheos import core, nets, train
from rheos.core import AffinePath, Draws, Field, GaussianMixtureField, PseudoHuber, Timed, Total, config, row_seeds
from rheos.core.base import Context
from rheos.core.change import OnPath
from rheos.core.errors import (
    ConditionError,
    MissingExtraError,
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
    retimed,
    rfpp,
)
from rheos.metrics import LPIPS, FeatureMap, perceptual, straightness
from rheos.sample import draw, solve
from strategies import mixture, randn, untyped

QUICK = train.Options(batch=32, lr=1e-3, sample_every=0, save_every=0, log_every=5)


def teacher(**options):
    torch.manual_seed(0)
    return Field(nets.MLP(2, hidden=16, depth=2, **options), shape=(2,), value_range=None)


def edm(sigma_data=0.5, classes=0):
    """A preconditioned network on EDM's own schedule, in float64."""
    torch.manual_seed(1)
    net = nets.EDM(nets.MLP(2, hidden=16, depth=2, time_features=8, classes=classes), "edm", sigma_data)
    return Field(net, AffinePath("edm", sigma_data=sigma_data), "edm", shape=(2,)).double()


# --- initialisation ---------------------------------------------------------------------------------------------


def test_the_pole_free_velocity_is_the_divided_one_and_is_finite_at_both_ends():
    sigma = 0.5
    student = retimed(edm(sigma))
    for t in (0.01, 0.1, 0.5, 0.9, 0.99):
        x = randn(7, 2)
        xt, s = x / t, (1 - t) / t  # D(x~; s~) by EDM's own preconditioning, and v = (D - x) / (1 - t)
        inner = student.net.net
        f = inner(xt / math.sqrt(s * s + sigma**2), torch.full((7,), 0.25 * math.log(s), dtype=torch.float64))
        d = sigma**2 / (s * s + sigma**2) * xt + s * sigma / math.sqrt(s * s + sigma**2) * f
        assert torch.allclose(student(x, t), (d - x) / (1 - t), rtol=0, atol=1e-9)
        delta = (1 - t) ** 2 + (t * sigma) ** 2
        card = (t * sigma**2 - (1 - t)) / delta * x + sigma / math.sqrt(delta) * f
        assert torch.allclose(student(x, t), card, rtol=0, atol=1e-12)
    for t in (0.0, 1.0):
        assert student(randn(7, 2), t).isfinite().all()


def test_the_noise_label_is_that_of_times_a_hundred_thousandth_from_the_ends():
    _, label = retimed(edm()).net.inputs(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert label.tolist() == pytest.approx([0.25 * math.log(1e5), -0.25 * math.log(1e5)], rel=1e-12)


def test_at_first_the_student_is_the_teachers_flow_retimed():
    field = edm()
    moved = field.on("linear")
    student = retimed(field)
    low, high = moved.finite
    for t in torch.linspace(low, high, 9, dtype=torch.float64)[1:-1]:
        x = randn(5, 2)
        assert torch.allclose(student(x, float(t)), moved(x, float(t)), atol=1e-9)
    assert {p.data_ptr() for p in student.parameters()}.isdisjoint(p.data_ptr() for p in field.parameters())
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), field.parameters(), strict=True))


@pytest.mark.parametrize("path", ["vp", "gvp", "edm"])
def test_a_teacher_on_another_path_is_seen_on_the_linear_one(path):
    field = Field(nets.MLP(2, hidden=8), path, "noise" if path == "vp" else "velocity", shape=(2,))
    student = retimed(field)
    assert isinstance(student, OnPath)
    assert student.path.law == core.Linear()
    x = randn(4, 2, dtype=torch.float32)
    assert torch.allclose(student(x, 0.5), field.on("linear")(x, 0.5))
    again = config.load(config.dump(student))
    again.net.load_state_dict(student.net.state_dict())
    assert torch.equal(again(x, 0.3), student(x, 0.3))
    assert not again.gaussian


def test_a_linear_teacher_is_copied_without_its_shift():
    field = teacher()
    field.shift = 3.0
    student = retimed(field.requires_grad_(False))
    assert student.shift == 1.0
    assert field.shift == 3.0
    assert all(p.requires_grad for p in student.parameters())


@untyped
def test_a_network_without_a_path_and_a_curved_path_are_refused():
    with pytest.raises(OptionError, match=r"does not say on which path.*Field\(net, path='edm'"):
        retimed(nets.MLP(2))
    curved = Field(nn.Linear(4, 3), core.GeodesicPath(core.UnitQuaternion()), shape=(4,))
    with pytest.raises(OptionError, match="Only an affine path"):
        retimed(curved)


# --- the loss ----------------------------------------------------------------------------------------------------


def test_the_loss_is_t_times_huber_plus_the_perceptual_distance_over_one_minus_t():
    def look(x):
        return x.flatten(1).sin()

    law = Rectification("perceptual-huber", features=look).premetric((1, 3, 3), (-1.0, 1.0))
    x0, x1, v = randn(4, 1, 3, 3, seed=1), randn(4, 1, 3, 3, seed=2), randn(4, 1, 3, 3, seed=3)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    rest = (1 - t).reshape(-1, 1, 1, 1)
    xt, u = rest * x0 + (1 - rest) * x1, x1 - x0
    estimate = xt + rest * v
    d, c = 9, 0.00054 * 9
    h = (((v - u).flatten(1).square().sum(1) + c * c).sqrt() - c) / d
    seen = (look(estimate) - look(x1)).square().mean(1)
    found = law(v, u, Context(xt, t, estimate, x1))
    assert torch.allclose(found, t * h + seen / (1 - t), rtol=1e-12)
    plain = Rectification("perceptual-huber", features=look, inverse=False).premetric((1, 3, 3), (-1.0, 1.0))
    assert torch.allclose(plain(v, u, Context(xt, t, estimate, x1)), t * h + seen, rtol=1e-12)


def test_the_objective_gives_the_loss_of_its_own_parts():
    """The same, through `FlowMatching`: data estimates are formed from the velocity on the path."""
    how = Rectification("perceptual-huber", features=torch.tanh, a=0.0)
    field = teacher().double()
    objective = how.objective(core.FromCondition("x0"), (2,), (-1.0, 1.0))
    x0, x1 = randn(6, 2, seed=1), randn(6, 2, seed=2)
    plan = objective.prepare(field, x1, {"x0": x0}, Draws(row_seeds(0, 6)))
    t = plan.t
    xt = (1 - t)[:, None] * x0 + t[:, None] * x1
    v = field(xt, t)
    h = PseudoHuber(0.00054, per_element=True)(v, x1 - x0, Context(xt, t))
    seen = (torch.tanh(xt + (1 - t)[:, None] * v) - x1.tanh()).square().mean(1)
    assert torch.allclose(objective.loss(field, plan).rows, t * h + seen / (1 - t), rtol=1e-10)


@pytest.mark.parametrize(
    ("loss", "want"), [("l2_squared", 4.0), ("l2", 2.0), ("huber", math.sqrt(4 / 8 + 0.00054**2) - 0.00054)]
)
def test_losses_of_the_velocity_have_their_formulas(loss, want):
    x = torch.zeros(3, 8, dtype=torch.float64)
    law = Rectification(loss).premetric((8,), None)
    assert law(x + 2, x, Context(x, torch.full((3,), 0.5))).tolist() == pytest.approx([want] * 3, rel=1e-12)


def test_a_unit_shape_and_a_flat_one_are_the_laws_of_times():
    t = torch.tensor([0.0, 0.5, 1.0])
    assert Rectification(clip=0.0, inverse=False).times.density(t).tolist() == pytest.approx(
        [2.0746, 0.5514, 2.0746], abs=5e-5
    )
    flat = Rectification(a=0.0).times
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    assert torch.allclose(flat.quantile(u), 1e-5 + (1 - 2e-5) * u, atol=1e-9)
    grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    law = core.UShape(4.0, clip=0.0)
    p = law.density(grid)
    assert float(torch.trapezoid(p, grid)) == pytest.approx(1, abs=1e-9)
    assert float(torch.trapezoid(p * (grid - 0.5).square(), grid)) == pytest.approx(0.115671, abs=1e-6)


def test_what_looks_at_samples_is_chosen_by_their_shape():
    def kind(shape, **given):
        return Rectification(**given).premetric(shape, (-1.0, 1.0))

    assert isinstance(kind((2,)), PseudoHuber)
    for shape, name in (((1, 8, 8), "digits"), ((1, 28, 28), "mnist5k"), ((3, 16, 16), "emoji")):
        norm, look = PseudoHuber(0.00054, per_element=True), core.Perceptual(FeatureMap(name))
        want = Total((Timed(norm, data=1.0), Timed(look, noise=-1.0)))
        assert config.dump(kind(shape)) == config.dump(want)
    assert isinstance(Rectification().premetric((3, 16, 16), None), PseudoHuber)  # latents have no range
    assert kind((3, 64, 64), loss="lpips", inverse=False) == LPIPS()


def test_a_perceptual_loss_of_what_is_no_picture_says_what_remains():
    remains = "What remains: a feature net, features='digits', 'emoji', 'mnist5k'.*'huber', 'l2'"
    for shape in ((1, 64, 64), (3, 16, 16), (2,)):
        with pytest.raises(ShapeError, match=remains):
            Rectification("lpips-huber").premetric(shape, (-1.0, 1.0))
    with pytest.raises(OptionError, match=r"no range of values, like latents.*'huber'"):
        Rectification("perceptual-huber").premetric((4, 32, 32), None)
    with pytest.raises(ShapeError, match=remains):
        Rectification("perceptual").premetric((4, 32, 32), (-1.0, 1.0))
    with pytest.raises(OptionError, match=rf"these are in \(0.0, 1.0\).*{remains}"):
        Rectification("perceptual", features="digits").premetric((1, 8, 8), (0.0, 1.0))


def test_bad_options_are_refused():
    with pytest.raises(UnknownOptionError, match="did you mean 'lpips'"):
        Rectification("lpip")
    with pytest.raises(OptionError, match="rounds and finetune must be at least 1"):
        Rectification(rounds=0)
    with pytest.raises(OptionError, match=r"a must lie in \[0, 700\), got -1"):
        Rectification(a=-1.0)
    with pytest.raises(OptionError, match="divided by 1 - t"):
        Rectification("lpips", clip=0.0)
    assert Rectification("huber", clip=0.0).clip == 0.0
    with pytest.raises(OptionError, match="looks at no features"):
        Rectification("huber", features="digits")
    with pytest.raises(OptionError, match="has its own features"):
        Rectification("lpips", features="digits")
    with pytest.raises(UnknownOptionError, match="features 'vgg' is unknown"):
        perceptual("vgg")


def test_lpips_resizes_to_its_net_and_is_given_pictures_between_minus_one_and_one(monkeypatch):
    seen = []

    class Fake(nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, a, b):
            seen.append((tuple(a.shape), float(a.detach().amin()), float(a.detach().amax())))
            return self.weight * (a - b).square().mean((1, 2, 3), keepdim=True)

    module = import_module("rheos.metrics.perceptual")
    monkeypatch.setitem(sys.modules, "lpips", type("lpips", (), {"LPIPS": Fake}))
    module._lpips.cache_clear()
    a = torch.rand(2, 3, 40, 40).requires_grad_()
    b = torch.rand(2, 3, 40, 40).requires_grad_()
    found = LPIPS(value_range=(0.0, 1.0))(a, b, Context(a, torch.zeros(2)))
    assert found.shape == (2,)
    shape, low, high = seen[0]
    assert shape == (2, 3, 224, 224)
    assert -1 <= low < -0.5
    assert 0.5 < high <= 1
    found.sum().backward()
    assert a.grad.any()
    assert b.grad is None
    module._lpips.cache_clear()


def test_lpips_that_is_not_there_or_has_no_weights_says_what_remains(monkeypatch):
    module = import_module("rheos.metrics.perceptual")
    x = torch.zeros(1, 3, 32, 32)
    module._lpips.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingExtraError, match=r"lpips and torchvision.*What remains: a feature net"):
        LPIPS()(x, x, Context(x, torch.zeros(1)))

    def fail(net, verbose):
        raise OSError("no network")

    monkeypatch.setitem(sys.modules, "lpips", type("lpips", (), {"LPIPS": fail}))
    with pytest.raises(
        core.RheosError, match=r"weights of LPIPS with 'vgg' cannot be loaded: no network.*What remains"
    ):
        LPIPS()(x, x, Context(x, torch.zeros(1)))
    with pytest.raises(OptionError, match="a size of at least 32"):
        LPIPS(size=8)


def test_a_shipped_net_looks_with_gradients_and_is_not_trained():
    x, y = torch.rand(2, 1, 8, 8).requires_grad_(), torch.rand(2, 1, 8, 8)
    perceptual("digits")(x, y, Context(x, torch.zeros(2))).sum().backward()
    assert x.grad.any()
    from rheos.metrics import features

    assert torch.equal(FeatureMap("digits")(y), features("digits").features(y))
    law = perceptual(features("digits"))  # the extractor keeps no gradients; its net does
    x.grad = None
    law(x, y, Context(x, torch.zeros(2))).sum().backward()
    assert x.grad.any()


# --- pairs -------------------------------------------------------------------------------------------------------


def test_noise_kept_as_seeds_comes_back_bit_by_bit_and_takes_no_file(tmp_path):
    field = mixture()
    stored = generate(field, tmp_path / "a", 30, recipe=Recipe(steps=4, chunk=7))
    seeds = generate(field, tmp_path / "b", 30, recipe=Recipe(steps=4, chunk=7, noise="seed"))
    assert not (tmp_path / "b" / "x0.npy").exists()
    assert torch.equal(seeds.column("x0"), stored.column("x0"))
    assert torch.equal(seeds.column("x1"), stored.column("x1"))
    index = torch.tensor([29, 3])
    batch = seeds.data().batch(index)
    again = seeds.source(batch.x, batch.cond, Draws(torch.arange(2)))
    assert torch.equal(again, stored.column("x0")[index])
    for x0, x1, cond in (seeds.rows(index), stored.rows(index)):
        assert torch.equal(x0, again)
        assert torch.equal(x1, stored.column("x1")[index])
        assert cond == {}
    with pytest.raises(RunError, match="another recipe"):
        generate(field, tmp_path / "a", 30, recipe=Recipe(steps=4, chunk=7, noise="seed"))


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
    assert about["format"] == 1
    for name in ("grid", "noise", "store"):
        del about["recipe"][name]
    index.write_text(json.dumps(about))
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


# --- the whole call ----------------------------------------------------------------------------------------------


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
