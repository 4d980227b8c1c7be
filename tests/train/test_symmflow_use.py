"""What a pair flow is used for, and what it refuses: the second half of its tests."""

import copy
import json
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
from rheos.data import About, Data, Functions, LatentCodec, load, save
from rheos.data.latents import encoded
from rheos.train import OneHotCode, Options, PairNet, PaletteCode, ScalarCode, SymmFlow, fit, symmflow
from rheos.train import load as load_run
from rheos.train.symmrecipe import PAPER, pair_for, recipe

DOUBLE = torch.float64


def flat_field(net: nn.Module, sigma_min: float = 0.0) -> core.Field:
    """A field over one number and a two-class scalar code, which stands for any y."""
    field = symmflow.pair_field(net, ScalarCode(2), sigma_min=sigma_min)
    field.shape = (1,)
    return field


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


class Constant(nn.Module):
    """Velocity (1, -2) whatever the state, but for noise in its second part."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return torch.stack((torch.ones_like(z[:, 0]), -2 * torch.ones_like(z[:, 1])), 1)


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
    import diffusers

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
    with pytest.raises(UnknownOptionError, match="noise"):
        PairNet(Constant(), OneHotCode(2), noise="none")  # type: ignore[arg-type]
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
    assert made["field"]["net"]["codec"] == config.dump(PaletteCode(3, "mask", ignore=255, beta=6.0, grid=(6, 50)))
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


def test_classes_of_held_out_masks_only_belong_to_the_codec(folders: Path) -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:], mask[0] = 4, 255
    paths = sorted((folders / "masks").rglob("*.png"))
    for path in paths:  # one of which is held out
        kept = Image.open(path).copy()
        Image.fromarray(mask).save(path)
        train = load(folders / "pictures", masks=folders / "masks", split="train")
        codec = SymmFlow(column="mask").suggest(train).net.codec  # type: ignore[union-attr]
        assert (codec.classes, codec.ignore) == (5, 255)
        kept.save(path)


def test_masks_beside_latents_keep_their_size(folders: Path) -> None:
    pictures = load(folders / "pictures", masks=folders / "masks")
    codec = LatentCodec(Functions(lambda x: x[:, :, ::2, ::2], lambda z: z.repeat_interleave(2, 2), name="half"), 1.0)
    data = encoded(pictures, codec)
    field = pair_for(data, "mask", width=8)
    run = fit(field, SymmFlow(column="mask"), data, steps=1, options=Options(batch=4), progress=False)
    rows = data.batch(torch.arange(2))
    assert symmflow.generate(run.field, rows.cond["mask"], steps=2).shape == (2, 1, 4, 4)
    assert symmflow.label(run.field, rows.x).shape == (2, 8, 8)
    paper = pair_for(data, "mask", code=PAPER["coco"].code).net
    assert isinstance(paper, PairNet)
    assert (paper.adapter, paper.codec.shape((1, 4, 4))) == ("resize", (3, 8, 8))
    with pytest.raises(OptionError, match="size is of maps and masks"):
        OneHotCode(3, size=(8, 8))


def test_a_larger_code_is_seen_as_its_mean_and_its_own_noise_passes_by_the_network() -> None:
    net = PairNet(nn.Identity(), OneHotCode(2, "mask", size=(4, 4)), adapter="resize", copies=True)
    seen: list[Tensor] = []
    net.net.forward = lambda z, t: seen.append(z) or z  # type: ignore[method-assign, func-returns-value]
    state = {"image": torch.rand(2, 1, 2, 2), "semantics": torch.rand(2, 2, 4, 4)}
    nn.init.constant_(net.gate.bias, 1.0)  # type: ignore[union-attr]
    out = net(state, torch.zeros(2))["semantics"]
    means = nn.functional.avg_pool2d(state["semantics"], 2)
    torch.testing.assert_close(seen[0][:, 1:], means)
    torch.testing.assert_close(out, state["semantics"] + means.repeat_interleave(2, 2).repeat_interleave(2, 3))


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
