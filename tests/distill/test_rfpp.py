"""2-Rectified Flow++: the re-timed teacher, its loss, its pairs, and the whole call."""

import math
import sys
from importlib import import_module

import pytest
import torch
from torch import nn

from rheos import core, nets
from rheos.core import AffinePath, Draws, Field, PseudoHuber, Timed, Total, config, row_seeds
from rheos.core.base import Context
from rheos.core.change import OnPath
from rheos.core.errors import (
    MissingExtraError,
    OptionError,
    RunError,
    ShapeError,
    UnknownOptionError,
)
from rheos.distill import (
    Recipe,
    Rectification,
    generate,
    retimed,
)
from rheos.metrics import LPIPS, FeatureMap, perceptual
from strategies import mixture, randn, untyped


def teacher(**options):
    torch.manual_seed(0)
    return Field(nets.MLP(2, hidden=16, depth=2, **options), shape=(2,), value_range=None)


def edm(sigma_data=0.5, classes=0):
    """A preconditioned network on EDM's own schedule, in float64."""
    torch.manual_seed(1)
    net = nets.EDM(nets.MLP(2, hidden=16, depth=2, time_features=8, classes=classes), "edm", sigma_data)
    return Field(net, AffinePath("edm", sigma_data=sigma_data), "edm", shape=(2,)).double()


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
