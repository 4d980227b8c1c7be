"""The symmetric objective, and what its fields do, against closed forms."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rheos import core, nets, sample
from rheos.core import Draws, row_seeds
from rheos.data import About, Data
from rheos.train import OneHotCode, Options, PaletteCode, ScalarCode, SymmFlow, fit, symmflow
from rheos.train import load as load_run
from rheos.train.symmuse import Hold

N = 64


DOUBLE = torch.float64


class Exact(nn.Module):
    r"""The exact joint velocity of scalars x, y with correlation rho, at sigma_min = 0.

    $(x, y, \xi_x, \xi_y)$ is Gaussian, so $E[u \mid x_t, y_t] = C_{u z} C_{zz}^{-1} z_t$.
    """

    def __init__(self, rho: float, x_first: bool = True) -> None:
        super().__init__()
        self.rho, self.anchor = rho, nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def matrix(self, t: float) -> Tensor:
        a = 1 - t  # z = (a xi_x + t x, a y + t xi_y), u = (x - xi_x, xi_y - y)
        cov = torch.tensor([[a * a + t * t, t * a * self.rho], [t * a * self.rho, a * a + t * t]], dtype=DOUBLE)
        cross = torch.tensor([[t - a, a * self.rho], [-t * self.rho, t - a]], dtype=DOUBLE)
        return cross @ torch.linalg.inv(cov)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return z @ self.matrix(float(t[0])).T + 0 * self.anchor


def flat_field(net: nn.Module, sigma_min: float = 0.0) -> core.Field:
    """A field over one number and a two-class scalar code, which stands for any y."""
    field = symmflow.pair_field(net, ScalarCode(2), sigma_min=sigma_min)
    field.shape = (1,)
    return field


def pair(n: int = N, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draws = Draws(row_seeds(seed, n))
    like = {"image": torch.empty(n, 1, dtype=DOUBLE), "semantics": torch.empty(n, 1, dtype=DOUBLE)}
    return draws.normal(like, 0), draws.normal(like, 1)  # type: ignore[return-value]


def digits_like(classes: int = 3) -> Data:
    x = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    about = About("small", tuple("abcdefghij"[:classes]), range=(-1.0, 1.0), delivers=(-1.0, 1.0))
    return Data(x, {"label": torch.arange(24) % classes}, about)


def masked(n: int = 12, size: int = 8, classes: int = 3) -> Data:
    masks = torch.arange(n * size * size).reshape(n, size, size) // 7 % classes
    x = (masks[:, None] * 80).to(torch.uint8)
    return Data(x, {"mask": masks}, conditions=("mask",))


def unet_field(codec: OneHotCode | PaletteCode, size: int = 8, seed: int = 0) -> core.Field:
    torch.manual_seed(seed)
    net = nets.UNet(1 + codec.channels, width=8, multipliers=(1, 2))
    for p in net.leave.parameters():
        nn.init.normal_(p, std=0.05)
    field = symmflow.pair_field(net, codec)
    field.shape = (1, size, size)
    return field


@pytest.mark.parametrize("sigma_min", [0.0, 1e-4, 0.3])
def test_targets_are_the_time_derivatives_of_both_parts(sigma_min: float) -> None:
    path, (x0, x1) = symmflow.pair_path(sigma_min), pair()
    kappa, t, h = 1 - sigma_min, 0.37, 1e-3
    at = path.sample(x0, x1, t)
    ahead, behind = path.sample(x0, x1, t + h).xt, path.sample(x0, x1, t - h).xt
    for name in ("image", "semantics"):
        slope = (ahead[name] - behind[name]) / (2 * h)  # type: ignore[call-overload]
        torch.testing.assert_close(at.u[name], slope, rtol=0, atol=1e-11)  # type: ignore[call-overload]  # linear in t
        torch.testing.assert_close(at.u[name], x1[name] - kappa * x0[name])  # type: ignore[call-overload]


def test_pictures_flow_to_data_and_labels_to_noise() -> None:
    field = flat_field(Exact(0.0))
    data, cond = torch.full((N, 1), 3.0), {"label": torch.ones(N, dtype=torch.int64)}
    start, end = SymmFlow().ends(field, data, cond, Draws.training(0, 0, N))
    word, noise = ScalarCode(2).words[1], ScalarCode(2).noise
    assert torch.equal(end["image"], data)
    assert float((start["semantics"] - word).abs().max()) <= noise
    for gauss in (start["image"], end["semantics"]):  # 64 draws: standard errors 1/8 and 1/11
        assert abs(float(gauss.mean())) < 0.5
        assert abs(float(gauss.std()) - 1) < 0.4


def test_swapping_the_roles_reverses_time_and_the_sign_of_the_velocity() -> None:
    path, (x0, x1), t = symmflow.pair_path(0.0), pair(), 0.3
    here = path.sample(x0, x1, t)

    def swapped(v: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"image": v["semantics"], "semantics": v["image"]}

    there = path.sample(swapped(x1), swapped(x0), 1 - t)
    for name in ("image", "semantics"):
        torch.testing.assert_close(there.xt[name], swapped(here.xt)[name])  # type: ignore[arg-type, call-overload]
        torch.testing.assert_close(there.u[name], -swapped(here.u)[name])  # type: ignore[arg-type, call-overload]


def test_the_loss_is_the_weighted_sum_of_two_means_over_their_own_elements() -> None:
    field = unet_field(OneHotCode(3, "mask"))
    data = masked()
    rows = data.batch(torch.arange(12))
    for w in (0.0, 0.5, 0.7, 1.0):
        objective = SymmFlow(column="mask", image_weight=w)
        plan = objective.prepare(field, rows.x, rows.cond, Draws.training(0, 0, 12))
        with torch.no_grad():
            point = field.path.sample(plan.x0, plan.x1, plan.t)
            v = field.net(point.xt, plan.t.float())  # type: ignore[union-attr]
            parts = [(v[n] - point.u[n]).square().flatten(1).mean(1) for n in ("image", "semantics")]  # type: ignore[call-overload]
            loss = objective.loss(field, plan)
        torch.testing.assert_close(loss.rows, w * parts[0] + (1 - w) * parts[1])
        torch.testing.assert_close(loss.logs["loss_image"], parts[0].mean())
        torch.testing.assert_close(loss.logs["loss_semantics"], parts[1].mean())
        assert float(loss.weight.sum()) == pytest.approx(1.0)


def test_weight_one_leaves_the_semantics_untrained_and_weight_zero_the_picture() -> None:
    data = masked()
    rows = data.batch(torch.arange(12))
    for w, still in ((1.0, slice(1, None)), (0.0, slice(0, 1))):
        field = unet_field(OneHotCode(3, "mask"))
        objective = SymmFlow(column="mask", image_weight=w)
        objective.loss(field, objective.prepare(field, rows.x, rows.cond, Draws.training(0, 0, 12))).value.backward()
        last = field.net.net.leave[-1]  # type: ignore[union-attr, index]
        assert float(last.bias.grad[still].abs().max()) == 0
        assert float(last.bias.grad.abs().max()) > 0


def test_no_loss_is_taken_where_a_mask_has_no_class() -> None:
    codec = OneHotCode(3, "mask", ignore=255)
    field, data = unet_field(codec), masked()
    rows = data.batch(torch.arange(12))
    holes = rows.cond["mask"].clone()
    holes[:, :4] = 255
    objective, draws = SymmFlow(column="mask", image_weight=0.0), Draws.training(0, 0, 12)
    plan = objective.prepare(field, rows.x, {"mask": holes}, draws)
    with torch.no_grad():
        point = field.path.sample(plan.x0, plan.x1, plan.t)
        gap = field.net(point.xt, plan.t.float())["semantics"] - point.u["semantics"]  # type: ignore[union-attr, call-overload]
        rows_ = objective.loss(field, plan).rows
        half = torch.cat([objective.loss(field, plan.slice(k, k + 6)).rows for k in (0, 6)])
    torch.testing.assert_close(rows_, gap[:, :, 4:].square().mean((1, 2, 3)))
    torch.testing.assert_close(half, rows_)


@pytest.mark.parametrize(("noise", "image", "semantics"), [("image", 1, 0), ("semantics", 0, 1), ("both", 1, 1)])
def test_noise_can_be_kept_on_one_side_only(noise: str, image: int, semantics: int) -> None:
    field = flat_field(Exact(0.0))
    cond = {"label": torch.zeros(N, dtype=torch.int64)}
    start, end = SymmFlow(noise=noise).ends(field, torch.ones(N, 1), cond, Draws.training(0, 0, N))  # type: ignore[arg-type]
    assert bool(start["image"].abs().max() > 0) == bool(image)
    assert bool(end["semantics"].abs().max() > 0) == bool(semantics)


def test_a_flow_without_noise_at_one_end_is_used_without_it(tmp_path: Path) -> None:
    """The network learns the ends of its training, so reading and generating begin there, also when read back."""
    data, options = masked(), Options(batch=4, sample_every=0)
    rows = data.batch(torch.arange(3))
    for noise, same in (("image", "read"), ("semantics", "made"), ("both", "")):
        field = unet_field(OneHotCode(3, "mask"))
        objective = SymmFlow(column="mask", noise=noise)  # type: ignore[arg-type]
        fit(field, objective, data, steps=1, out=tmp_path / noise, options=options, progress=False)
        run = load_run(tmp_path / noise)
        assert run.field.net.noise == noise  # type: ignore[union-attr]
        spread = symmflow.read(run.field, rows.x, draws=3).spread.max()
        assert (float(spread) == 0) == (same == "read")
        at = symmflow.begin(run.field, rows.cond["mask"], (1, 8, 8), Draws(row_seeds(0, 3)))
        assert (float(at["image"].abs().max()) == 0) == (same == "made")
        told = objective.starts(run.field, rows.x, rows.cond, Draws(row_seeds(0, 3)))
        assert torch.equal(told["image"], at["image"])  # type: ignore[index, call-overload]
        region = torch.ones(3, 8, 8, dtype=torch.bool)
        edits = [symmflow.edit(run.field, rows.x, rows.cond["mask"], region=region, steps=2, seed=s) for s in (0, 9)]
        apart = float((edits[0] - edits[1]).abs().max())
        assert (apart < 0.2) == (same == "made")  # only the codes' own noise is left
    assert SymmFlow(column="mask", noise="image").suggest(data).net.noise == "image"  # type: ignore[union-attr]


def test_temperature_scales_the_noise_of_pictures_and_codes() -> None:
    field, rows = unet_field(OneHotCode(3, "mask")), masked().batch(torch.arange(3))
    objective, draws = SymmFlow(column="mask"), Draws(row_seeds(0, 3))
    word = OneHotCode(3, "mask").encode(rows.cond["mask"], (1, 8, 8))
    full, half, cold, hot = (objective.starts(field, rows.x, rows.cond, draws, t) for t in (1.0, 0.5, 0.0, 2.0))
    assert torch.equal(cold["image"], torch.zeros_like(rows.x))  # type: ignore[index, call-overload]
    assert torch.equal(cold["semantics"], word)  # type: ignore[index, call-overload]
    torch.testing.assert_close(half["image"], full["image"] / 2)  # type: ignore[index, call-overload]
    torch.testing.assert_close(half["semantics"] - word, (full["semantics"] - word) / 2)  # type: ignore[index, call-overload, operator]
    assert torch.equal(hot["semantics"], full["semantics"])  # type: ignore[index, call-overload]
    assert torch.equal(hot["image"], 2 * full["image"])  # type: ignore[index, call-overload, operator]


@pytest.mark.parametrize("rho", [0.0, 0.6, -0.9])
def test_the_flow_of_a_gaussian_pair_is_the_closed_form_of_its_linear_ode(rho: float) -> None:
    field = flat_field(Exact(rho))
    x0, _ = pair()
    steps = 64
    moved = sample.solve(field, x0, [k / steps for k in range(steps + 1)], "rk4").x
    flow = torch.eye(2, dtype=DOUBLE)  # the fundamental matrix, by products of midpoint exponentials
    for k in range(4000):
        flow = torch.linalg.matrix_exp(field.net.net.matrix((k + 0.5) / 4000) / 4000) @ flow  # type: ignore[union-attr]
    z0 = torch.cat((x0["image"], x0["semantics"]), 1)
    z1 = torch.cat((moved["image"], moved["semantics"]), 1)  # type: ignore[call-overload]
    torch.testing.assert_close(z1, z0 @ flow.T, rtol=0, atol=1e-6)  # both of second order or better
    cov = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=DOUBLE)  # (xi_x, y) and (x, xi_y) are both standard normal
    torch.testing.assert_close(flow @ cov @ flow.T, cov, rtol=0, atol=1e-6)
    if rho:  # in the joint-noise sense: x at the end leans on y by the flow's own coefficient, with the sign of rho
        assert math.copysign(1, float(flow[0, 1])) == math.copysign(1, rho)


@pytest.mark.parametrize("rho", [0.6, -0.9])
def test_labelling_in_one_step_is_the_posterior_mean(rho: float) -> None:
    field = flat_field(Exact(rho))
    x = torch.linspace(-2, 2, 9, dtype=DOUBLE)[:, None]
    found = symmflow.read(field, x, seed=3)
    torch.testing.assert_close(found.code, rho * x)  # E[y | x], whatever the noise
    many = symmflow.read(field, x, draws=5, seed=3)
    torch.testing.assert_close(many.code, rho * x)
    torch.testing.assert_close(many.spread, torch.zeros(9, dtype=DOUBLE), rtol=0, atol=1e-7)  # sqrt of rounding
    assert torch.equal(many.agreement, torch.ones(9, dtype=DOUBLE))
    assert torch.equal(found.labels, (rho * x[:, 0] > 0).long())


class Constant(nn.Module):
    """Velocity (1, -2) whatever the state, but for noise in its second part."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return torch.stack((torch.ones_like(z[:, 0]), -2 * torch.ones_like(z[:, 1])), 1)


def test_an_ensemble_reports_the_spread_and_the_votes_of_its_draws() -> None:
    field = flat_field(Constant())
    x, k = torch.zeros(400, 1), 40
    found = symmflow.read(field, x, draws=k, seed=0)
    noise = torch.stack([symmflow.read(field, x, draws=1, seed=0).code])  # the first draw is the same one
    assert noise.shape == (1, 400, 1)
    # y = xi + 2, so its spread is that of standard normal noise: 400 x 40 draws, standard error below 0.01
    assert float(found.spread.square().mean()) == pytest.approx((k - 1) / k, abs=0.04)
    assert float(found.code.mean()) == pytest.approx(2.0, abs=0.03)
    assert float(found.agreement.mean()) == pytest.approx(0.5 * (1 + math.erf(2 / 2**0.5)), abs=0.01)  # P(xi > -2)


def test_many_steps_and_one_agree_where_the_velocity_is_constant() -> None:
    field = flat_field(Constant())
    x = torch.randn(5, 1)
    a, b = (symmflow.read(field, x, steps=s, seed=1).code for s in (1, 25))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    made = symmflow.generate(field, torch.tensor([0, 1]), seed=[7, 8])
    torch.testing.assert_close(made, symmflow.generate(field, torch.tensor([0, 1]), steps=1, seed=[7, 8]))


def test_rows_depend_on_their_own_seed_alone() -> None:
    field = unet_field(OneHotCode(3, "mask"))
    masks, seeds = masked().batch(torch.arange(4)).cond["mask"], [5, 6, 7, 8]
    whole = symmflow.generate(field, masks, steps=3, seed=seeds)
    torch.testing.assert_close(symmflow.generate(field, masks[2:], steps=3, seed=seeds[2:]), whole[2:])
    read = symmflow.read(field, whole, draws=2, steps=2, seed=seeds)
    part = symmflow.read(field, whole[1:2], draws=2, steps=2, seed=seeds[1:2])
    torch.testing.assert_close(part.code, read.code[1:2], rtol=1e-4, atol=1e-5)  # convolutions sum in another order
    assert read.labels.shape == read.spread.shape == read.agreement.shape == (4, 8, 8)


def test_editing_returns_the_original_outside_of_the_grown_region_and_is_new_inside() -> None:
    field = unet_field(OneHotCode(3, "mask"))
    rows = masked().batch(torch.arange(3))
    region = torch.zeros(3, 8, 8, dtype=torch.bool)
    region[:, 2:4, 2:4] = True
    wanted = torch.where(region, 2, rows.cond["mask"])
    made = symmflow.edit(field, rows.x, wanted, region=region, dilate=1, steps=5, seed=0)
    grown = torch.zeros(8, 8, dtype=torch.bool)
    grown[1:5, 1:5] = True
    assert float((made - rows.x).abs()[:, :, ~grown].max()) < 1e-3  # the noise left at sigma_min
    assert float((made - rows.x).abs()[:, :, grown].min(-1).values.max()) > 1e-2
    again = symmflow.edit(field, rows.x[1:2], wanted[1:2], region=region[1:2], steps=5, seed=row_seeds(0, 3)[1:2])
    torch.testing.assert_close(again, made[1:2], rtol=0, atol=1e-4)
    other = symmflow.edit(field, rows.x, wanted, region=region[0], steps=5, seed=1, solver="heun")
    assert float((other - rows.x).abs()[:, :, ~grown].max()) < 1e-3  # inner stages are held too


def test_editing_finds_its_region_where_the_masks_differ_from_the_reading() -> None:
    field = unet_field(OneHotCode(3, "mask"))
    rows = masked().batch(torch.arange(2))
    same = symmflow.label(field, rows.x, seed=0)
    kept = symmflow.edit(field, rows.x, same, steps=3, seed=0)
    torch.testing.assert_close(kept, rows.x, rtol=0, atol=1e-3)


def test_held_pixels_stay_on_their_path_at_every_step() -> None:
    field = unet_field(OneHotCode(3, "mask"))
    x, noise, outside = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    start = {"image": noise, "semantics": torch.zeros(2, 3, 8, 8)}
    times = [0.0, 0.3, 0.7, 1.0]
    walk = sample.solve(field, start, times, "heun", steers=(Hold(x, noise, outside),), trace=True)
    for t, at in zip(times, walk.path["image"], strict=True):  # type: ignore[index, call-overload]
        torch.testing.assert_close(at, t * x + (1 - (1 - 1e-4) * t) * noise, rtol=0, atol=1e-6)


def test_a_run_trains_resumes_shows_pictures_and_is_read_back(tmp_path: Path) -> None:
    data, codec = digits_like(), OneHotCode(3)
    torch.manual_seed(0)
    net = nets.MLP(16 + 3, hidden=16, depth=1)
    options = Options(batch=8, save_every=2, sample_every=4, sample_count=6, log_every=2, ema=0.9)
    run = fit(
        symmflow.pair_field(net, codec, join="flat"), SymmFlow(), data, steps=4, out=tmp_path / "a", options=options,
        progress=False,
    )  # fmt: skip
    assert set(run.metrics()[-1]) >= {"loss_image", "loss_semantics"}
    assert (tmp_path / "a" / "samples" / "step_0000004.png").exists() or list((tmp_path / "a" / "samples").iterdir())
    back = load_run(tmp_path / "a")
    assert back.objective == SymmFlow()
    assert back.field.shape == (1, 4, 4)
    assert not back.field.gaussian
    x = symmflow.generate(run.field, torch.tensor([0, 2]), seed=1)
    assert torch.equal(symmflow.generate(back.field, torch.tensor([0, 2]), seed=1), x)
    assert torch.equal(symmflow.label(back.field, x), symmflow.label(run.field, x))
