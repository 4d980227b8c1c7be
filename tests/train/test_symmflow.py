"""The symmetric objective, and what its fields do, against closed forms."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rheos import core, nets, sample
from rheos.core import Draws, config, row_seeds
from rheos.core.errors import (
    ConditionError,
    DataError,
    OptionError,
    ShapeError,
    SourceNotGaussianError,
    TimeError,
    UnknownOptionError,
)
from rheos.data import About, Data, load, save
from rheos.train import OneHotCode, Options, PairNet, PaletteCode, ScalarCode, SymmFlow, fit, symmflow
from rheos.train import load as load_run
from rheos.train.symmrecipe import PAPER, recipe
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


def test_accumulated_halves_have_the_whole_batchs_gradient() -> None:
    field, rows = unet_field(OneHotCode(3, "mask")), masked().batch(torch.arange(12))
    objective = SymmFlow(column="mask")
    plan = objective.prepare(field, rows.x, rows.cond, Draws.training(0, 0, 12))
    whole = objective.loss(field, plan).value
    halves = sum(objective.loss(field, plan.slice(k, k + 6)).value for k in (0, 6))
    torch.testing.assert_close(whole, halves)


def test_a_vector_code_beside_a_picture_is_spread_over_it_and_read_as_its_mean() -> None:
    class Seen(nn.Module):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            self.z = z
            return torch.cat((z[:, :1], z[:, 1:] * torch.linspace(0, 2, 4)), 1)  # columns of mean 1

    seen = Seen()
    net = PairNet(seen, OneHotCode(2))
    state = {"image": torch.rand(3, 1, 4, 4), "semantics": torch.rand(3, 2)}
    out = net(state, torch.zeros(3))
    assert torch.equal(seen.z[:, 1:], state["semantics"][:, :, None, None].expand(-1, -1, 4, 4))
    torch.testing.assert_close(out["semantics"], state["semantics"])


def test_maps_of_another_size_are_resized_there_and_back_only_on_request() -> None:
    state = {"image": torch.rand(2, 1, 4, 4), "semantics": torch.rand(2, 2, 2, 2)}
    net = PairNet(nn.Identity(), OneHotCode(2, "map", size=(2, 2)), adapter="resize")
    net.net.forward = lambda z, t: z  # type: ignore[method-assign]
    torch.testing.assert_close(net(state, torch.zeros(2))["semantics"], state["semantics"])
    plain = PairNet(nn.Identity(), OneHotCode(2, "map", size=(2, 2)))
    with pytest.raises(ShapeError, match=r"does not lie beside a picture.*adapter='resize'"):
        plain(state, torch.zeros(2))


class Tanh(nn.Module):
    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return z.tanh()


def test_copies_add_each_part_times_its_own_factor_of_time_and_nothing_at_first() -> None:
    state = {"image": torch.rand(2, 1, 4, 4), "semantics": torch.rand(2, 2)}
    plain, gated = (PairNet(Tanh(), OneHotCode(2), copies=c) for c in (False, True))
    t = torch.tensor([0.2, 0.9])
    for name, value in plain(state, t).items():
        assert torch.equal(gated(state, t)[name], value)
    nn.init.constant_(gated.gate.bias, 2.0)  # type: ignore[union-attr]
    with torch.no_grad():
        gated.gate.bias[1] = -3.0  # type: ignore[union-attr]
    for name, factor in (("image", 2.0), ("semantics", -3.0)):
        torch.testing.assert_close(gated(state, t)[name], plain(state, t)[name] + factor * state[name])


def test_the_network_gets_scaled_times_and_its_own_conditions() -> None:
    class Clock(nn.Module):
        conditions = frozenset({"domain"})

        def null(self, name: str, rows: int) -> Tensor:
            return torch.zeros(rows)

        def forward(self, z: Tensor, t: Tensor, domain: Tensor) -> Tensor:
            return z * 0 + (t + domain)[:, None]

    field = core.Field(PairNet(Clock(), ScalarCode(2), time_scale=1000.0), symmflow.pair_path(), gaussian=False)
    state = {"image": torch.zeros(2, 1), "semantics": torch.zeros(2, 1)}
    out = field(state, 0.25, domain=torch.tensor([0.0, 1.0]))
    assert out["image"].flatten().tolist() == [250.0, 251.0]  # type: ignore[call-overload]
    assert field(state, 0.25)["semantics"].flatten().tolist() == [250.0, 250.0]  # type: ignore[call-overload]


@pytest.mark.parametrize("concat", [0, 2])
def test_a_doubled_unet_is_the_old_one_twice_when_the_semantics_are_zero(concat: int) -> None:
    torch.manual_seed(0)
    base = nets.UNet(3, width=8, multipliers=(1, 2), attention=(-1,), classes=4, concat=concat).double()
    for p in base.parameters():
        nn.init.normal_(p, std=0.1)
    both = symmflow.doubled(base)
    x, t = torch.randn(2, 3, 8, 8, dtype=DOUBLE), torch.rand(2, dtype=DOUBLE)
    cond = {"label": torch.tensor([1, 4])}
    cond |= {"concat": torch.randn(2, concat, 8, 8, dtype=DOUBLE)} if concat else {}
    old, new = base(x, t, **cond), both(torch.cat((x, 0 * x), 1), t, **cond)
    torch.testing.assert_close(new, torch.cat((old, old), 1))
    enter = both.enter  # type: ignore[union-attr]
    inputs = torch.cat((x, x, *([cond["concat"]] if concat else [])), 1)
    once = torch.cat((x, *([cond["concat"]] if concat else [])), 1)
    rest = torch.cat((0 * x, *([cond["concat"]] if concat else [])), 1)
    bias = base.enter.bias[None, :, None, None]
    torch.testing.assert_close(
        enter(inputs), base.enter(once) * 2 - base.enter(rest)
    ) if concat else torch.testing.assert_close(enter(inputs), 2 * (base.enter(x) - bias) + bias)
    assert base.config["channels"] == 3


def test_a_doubled_diffusers_unet_keeps_its_prompt_and_passes_times_as_they_are() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=6, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).double().eval()  # fmt: skip
    prompt, x, t = torch.randn(5, 6, dtype=DOUBLE), torch.randn(2, 4, 8, 8, dtype=DOUBLE), torch.rand(2, dtype=DOUBLE)
    both = symmflow.doubled(unet)
    assert both.config.in_channels == both.config.out_channels == 8  # type: ignore[union-attr]
    old = unet(x, t, encoder_hidden_states=prompt.expand(2, -1, -1)).sample
    new = symmflow.TextFree(both, prompt)(torch.cat((x, 0 * x), 1), t)
    torch.testing.assert_close(new, torch.cat((old, old), 1))
    assert unet.config.in_channels == 4
    field = symmflow.pair_field(symmflow.TextFree(both, prompt), OneHotCode(4, "map"))
    assert field.net.time_scale == 1.0  # type: ignore[union-attr]
    field({"image": x, "semantics": x}, 0.3)


def test_the_direct_flow_starts_from_codes() -> None:
    source, like = symmflow.Coded(ScalarCode(3, "map")), torch.zeros(3, 1, 4, 4)
    draws = Draws(row_seeds(0, 3))
    code = source(like, {"label": torch.arange(3)}, draws)
    assert isinstance(code, Tensor)
    assert torch.equal(ScalarCode(3, "map").decode(code), torch.arange(3))
    run = fit(
        core.Field(nets.MLP(16, hidden=8, depth=1), gaussian=False),
        core.FlowMatching(source=source, coupling=core.GivenPairs()),
        digits_like(), steps=2, options=Options(batch=4), progress=False,
    )  # fmt: skip
    assert run.objective == core.FlowMatching(source=source, coupling=core.GivenPairs())
    with pytest.raises(ShapeError, match="codes of the picture's shape"):
        symmflow.Coded(OneHotCode(3))(like, {"label": torch.arange(3)}, draws)
    with pytest.raises(ConditionError, match="code of 'label', which the batch lacks"):
        source(like, {}, draws)
    with pytest.raises(ShapeError, match="not of a state with parts"):
        source({"a": like}, {"label": torch.arange(3)}, draws)


def test_latents_are_sampled_in_training_and_decoded_after_generation(tmp_path: Path) -> None:
    class Halves:
        def encode(self, x: Tensor) -> Tensor:
            return x[:, :, ::2, ::2] / 2

        def decode(self, z: Tensor) -> Tensor:
            return z.repeat_interleave(2, 2).repeat_interleave(2, 3) * 2

    codec = OneHotCode(3)
    torch.manual_seed(0)
    net = PairNet(nets.UNet(1 + 3, width=8, multipliers=(1,)), codec, autoencoder=Halves(), latent_scale=0.5)
    field = symmflow.pair_field(net, codec)
    data = digits_like()
    start, end = SymmFlow().ends(field, data.x, {"label": data.columns["label"]}, Draws.training(0, 0, 24))  # type: ignore[dict-item]
    torch.testing.assert_close(end["image"], data.x[:, :, ::2, ::2] / 4)
    assert start["image"].shape == (24, 1, 2, 2)
    options = Options(batch=4, sample_count=3)
    run = fit(field, SymmFlow(), data, steps=1, out=tmp_path / "run", options=options, progress=False)
    made = symmflow.generate(run.field, torch.arange(3))
    assert made.shape == (3, 1, 4, 4)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["field"]["net"]["autoencoder"]
    with pytest.raises(OptionError, match="which the file only names"):
        load_run(tmp_path / "run")
    back = load_run(tmp_path / "run", custom={stored["class"]: Halves()})
    assert torch.equal(symmflow.generate(back.field, torch.arange(3)), made)
    assert symmflow.label(run.field, data.x).shape == (24,)
    with pytest.raises(OptionError, match="must not flow in latents"):
        symmflow.edit(run.field, data.x, data.columns["label"])  # type: ignore[arg-type]


def test_scores_sdes_and_guidance_are_refused_with_the_reason() -> None:
    field = flat_field(Constant())
    state = {"image": torch.zeros(1, 1), "semantics": torch.zeros(1, 1)}
    with pytest.raises(SourceNotGaussianError, match=r"gaussian=False.*ODE solver"):
        field.score(state, 0.5)
    with pytest.raises(OptionError, match="SDE uses the coefficients of an affine path"):
        symmflow.generate(field, torch.tensor([0]), solver="sde")
    with pytest.raises(OptionError, match="there is none: the label is a part of the state"):
        symmflow.generate(field, torch.tensor([0]), steers=(sample.CFG(2.0),))
    with pytest.raises(OptionError, match="takes no conditions"):
        sample.draw(field, 2, guidance=2.0)
    with pytest.raises(ConditionError, match=r"no null 'label'.*part of the state"):
        field.net.null("label", 1)  # type: ignore[operator, union-attr]


def test_bad_input_is_refused_before_any_work(untyped: None) -> None:
    field = unet_field(OneHotCode(3, "mask"))
    x = torch.zeros(2, 1, 8, 8)
    masks = torch.zeros(2, 8, 8, dtype=torch.int64)
    with pytest.raises(ConditionError, match=r"0 .. 2, got 7"):
        symmflow.generate(field, masks + 7)
    with pytest.raises(ShapeError, match=r"encodes masks \(B, 8, 8\), got \(2,\)"):
        symmflow.generate(field, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"rows of shape \(1, 4, 4\), the field's pictures \(1, 8, 8\)"):
        symmflow.label(field, x[:, :, :4, :4])
    with pytest.raises(OptionError, match="draws must be at least 1"):
        symmflow.read(field, x, draws=0)
    with pytest.raises(OptionError, match="needs a field of a PairNet"):
        symmflow.generate(core.Field(nets.MLP(2)), torch.tensor([0]), shape=(2,))
    with pytest.raises(OptionError, match="does not know the shape"):
        symmflow.generate(symmflow.pair_field(nets.MLP(3), ScalarCode(2)), torch.tensor([0]))
    with pytest.raises(ConditionError, match="do not say where to edit"):
        symmflow.edit(field, x, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(OptionError, match="dilate must be 0 or more"):
        symmflow.edit(field, x, masks, region=masks > 0, dilate=-1)
    with pytest.raises(ShapeError, match=r"region has the shape \(2, 8, 8\), got \(2, 4, 8\)"):
        symmflow.edit(field, x, masks, region=masks[:, :4] > 0)
    vectors = symmflow.pair_field(nets.MLP(3), ScalarCode(2))
    with pytest.raises(ShapeError, match="Editing needs pictures"):
        symmflow.edit(vectors, torch.zeros(2, 2), torch.tensor([0, 1]))


def test_bad_options_and_states_are_refused(untyped: None) -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(OptionError, match="image_weight must lie"):
            SymmFlow(image_weight=wrong)
    with pytest.raises(UnknownOptionError, match="noise 'none'"):
        SymmFlow(noise="none")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="share one time"):
        SymmFlow(times=core.TwoTimes("uniform"))
    with pytest.raises(OptionError, match="no meaning for labels"):
        SymmFlow(premetric=core.Perceptual(lambda v: v, part="image"))
    field, draws = flat_field(Constant()), Draws.training(0, 0, 2)
    with pytest.raises(ConditionError, match=r"learns the column 'label', which the batch lacks; it has: none"):
        SymmFlow().ends(field, torch.zeros(2, 1), {}, draws)
    with pytest.raises(ShapeError, match="a state with parts"):
        SymmFlow().ends(field, {"x": torch.zeros(2, 1)}, {"label": torch.zeros(2, dtype=torch.int64)}, draws)
    with pytest.raises(ShapeError, match=r"dict of 'image' and 'semantics', got a tensor"):
        field.net(torch.zeros(1, 2), torch.zeros(1))
    with pytest.raises(TimeError, match="share one time a row"):
        field({"image": torch.zeros(1, 1), "semantics": torch.zeros(1, 1)}, {"image": 0.1, "semantics": 0.2})
    with pytest.raises(ShapeError, match="returns 2 channels for a picture of 1 and semantics of 2"):
        PairNet(Constant(), OneHotCode(2))({"image": torch.zeros(1, 1), "semantics": torch.zeros(1, 2)}, torch.zeros(1))
    with pytest.raises(OptionError, match="Scales must be positive"):
        PairNet(Constant(), OneHotCode(2), time_scale=0.0)
    with pytest.raises(UnknownOptionError, match="join"):
        PairNet(Constant(), OneHotCode(2), join="rows")  # type: ignore[arg-type]
    with pytest.raises(UnknownOptionError, match="adapter"):
        PairNet(Constant(), OneHotCode(2), adapter="pad")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="named conv_in and conv_out; Linear has neither"):
        symmflow.doubled(nn.Linear(2, 2))
    with pytest.raises(OptionError, match="predicts no velocity to double"):
        symmflow.doubled(nets.UNet(1, width=8, multipliers=(1,), out_channels=2))
    with pytest.raises(ShapeError, match=r"shape \(L, D\) or \(1, L, D\), got \(2, 3, 4\)"):
        symmflow.TextFree(nn.Identity(), torch.zeros(2, 3, 4))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Pictures in two classes, and a mask for each."""
    for k in range(8):
        for top in ("pictures", "masks"):
            (tmp_path / top / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[:, k:] = k % 3
        mask[0, 0] = 2
        Image.fromarray(mask * 100).save(tmp_path / "pictures" / "ab"[k % 2] / f"{k}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / "ab"[k % 2] / f"{k}.png")
    return tmp_path


@pytest.mark.parametrize("what", ["classes", "masks"])
def test_a_folder_becomes_a_recipe_that_the_command_line_trains(folders: Path, what: str) -> None:
    from rheos import cli

    masks = folders / "masks" if what == "masks" else None
    data = load(folders / "pictures", masks=masks)
    made = recipe(data, steps=2)
    (folders / "recipe.json").write_text(json.dumps(made))
    out = folders / "run"
    changes = ["options.batch=4", "options.sample_count=4", "field.net.net.width=8"]
    assert cli.main(["train", "--config", str(folders / "recipe.json"), "--out", str(out), "--set", *changes]) == 0
    run = load_run(out)
    rows = run.data().batch(torch.arange(2))
    column = "mask" if what == "masks" else "label"
    assert symmflow.generate(run.field, rows.cond[column], steps=2).shape == (2, 1, 8, 8)
    assert symmflow.label(run.field, rows.x).shape == rows.cond[column].shape
    net = run.field.net
    assert isinstance(net, PairNet)
    assert net.codec.classes == (3 if masks else 2)


def test_recipes_of_the_paper_carry_its_numbers(folders: Path) -> None:
    data = load(folders / "pictures", masks=folders / "masks")
    made = recipe(data, like="coco")
    assert made["objective"]["image_weight"] == 0.7
    assert made["field"]["net"]["codec"] == config.dump(PaletteCode(3, "mask", beta=6.0, grid=(6, 50)))
    assert made["options"]["ema"] == 0.9
    digits = recipe(load("digits"), like="mnist")
    assert digits["field"]["net"]["codec"] == config.dump(ScalarCode(10, "map"))
    assert digits["steps"] == 1000 * (1797 // 512)
    assert digits["options"]["warmup"] == 100 * (1797 // 512)
    assert set(PAPER) == {"celebamask", "coco", "mnist", "cifar10"}
    moons = load("moons", limit=40)
    about = replace(moons.about, class_names=("a", "b"))
    vectors = recipe(replace(moons, columns={"label": torch.arange(40) % 2}, about=about))
    assert vectors["field"]["net"]["net"]["kind"] == "MLP"


def test_recipes_need_labels_and_data_that_can_be_read_again(folders: Path) -> None:
    with pytest.raises(ConditionError, match="no column"):
        recipe(load("moons"))
    with pytest.raises(DataError, match=r"made in memory: keep them with rheos\.data\.save"):
        recipe(masked())
    save(masked(), folders / "kept.npz")
    made = recipe(load(folders / "kept.npz"), codec=OneHotCode(3, "mask"))
    assert made["data"]["conditions"] == ["mask"]
    with pytest.raises(UnknownOptionError, match="imagenet"):
        recipe(load("digits"), like="imagenet")


def test_pixels_of_255_are_taken_as_ignored(folders: Path) -> None:
    for path in (folders / "masks").rglob("*.png"):
        mask = np.array(Image.open(path))
        mask[-1] = 255
        Image.fromarray(mask).save(path)
    made = recipe(load(folders / "pictures", masks=folders / "masks"))
    assert made["field"]["net"]["codec"]["ignore"] == 255
    assert made["field"]["net"]["codec"]["classes"] == 3


def test_training_lowers_both_losses_and_learns_to_label(field: Callable[..., core.Field]) -> None:
    del field
    torch.manual_seed(0)
    labels = torch.arange(80) // 40
    x = (2.0 * labels - 1)[:, None] + 0.1 * torch.randn(80, 2)
    data = Data(x, {"label": labels}, About(class_names=("low", "high")))
    codec = OneHotCode(2)
    net = nets.MLP(4, hidden=32, depth=2, activation="silu", residual=True, time_features=16)
    start = copy.deepcopy(net)
    options = Options(batch=64, lr=5e-3, log_every=50, ema=0.9)
    run = fit(symmflow.pair_field(net, codec), SymmFlow(), data, steps=150, options=options, progress=False)
    first, last = run.metrics()[0], run.metrics()[-1]
    assert last["loss_image"] < first["loss_image"]
    assert last["loss_semantics"] < first["loss_semantics"]
    rows = data.batch(torch.arange(80))
    assert float((symmflow.label(run.field, rows.x) == rows.cond["label"]).double().mean()) > 0.97
    made = symmflow.generate(run.field, torch.arange(40) % 2)
    assert float((made.mean(1).sign() == 2.0 * (torch.arange(40) % 2) - 1).double().mean()) > 0.8
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), net.parameters(), strict=True))
