"""Holes and semantic maps joined to a network: what it sees, what is refused, and what comes out."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from rheos import core, nets
from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.data import Data, Functions, LatentCodec, load
from rheos.data.holes import halves
from rheos.nets import MLP, Autoencoder, UNet
from rheos.sample import draw
from rheos.train import ConcatCondition, LatentFlow, expand_in_conv
from rheos.train.lfm import hidden, inpainting, latent_field


@pytest.fixture
def digits() -> Data:
    return load("digits", limit=64)


def same(name: str = "same") -> LatentCodec:
    return LatentCodec(Functions(lambda x: x, lambda z: z, name=name), 1.0)


def woken(net: nn.Module, seed: int = 0) -> nn.Module:
    """Zero-initialised layers were given weights, so that outputs say something."""
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return net


def test_zero_weights_for_new_channels_reproduce_the_old_network():
    torch.manual_seed(0)
    old = woken(UNet(4, width=8, multipliers=(1, 2), classes=3).double())
    x, t = torch.randn(3, 4, 8, 8, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    label = torch.tensor([0, 1, 3])
    for extra in (4, 5):
        new = expand_in_conv(old, extra)
        concat = torch.randn(3, extra, 8, 8, dtype=torch.float64)
        assert new.conditions == {"label", "concat"}
        found = new(x, t, label=label, concat=concat)
        assert torch.equal(found, new(x, t, label=label, concat=0 * concat))  # the condition is ignored to the last bit
        # the wider convolution sums its products in another order: rounding of float64
        torch.testing.assert_close(found, old(x, t, label=label), rtol=0, atol=1e-12)
    assert torch.equal(new.enter.weight[:, :4], old.enter.weight)
    assert old.concat == 0


def test_the_first_convolution_of_diffusers_networks_grows_too():
    import diffusers

    old = diffusers.UNet2DModel(
        8, in_channels=4, block_out_channels=(8,), norm_num_groups=2, layers_per_block=1, add_attention=False,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), out_channels=4,
    )  # fmt: skip
    new = expand_in_conv(old, 5)
    x = torch.randn(1, 4, 8, 8)
    joined = torch.cat((x, torch.randn(1, 5, 8, 8)), 1)
    torch.testing.assert_close(new(joined, 3).sample, old(x, 3).sample, rtol=0, atol=1e-5)
    assert new.config["in_channels"] == 9
    with pytest.raises(OptionError, match="Linear has neither"):
        expand_in_conv(nn.Linear(1, 1), 1)
    with pytest.raises(OptionError, match="extra must be at least 1"):
        expand_in_conv(old, 0)


def concat_net(**more) -> ConcatCondition:
    return ConcatCondition(UNet(4, width=8, multipliers=(1, 2), concat=9), known=4, maps=3, factor=4, **more)


def conditions(rows: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "known": torch.randn(rows, 4, 4, 4, generator=g),
        "hole": (torch.rand(rows, 1, 16, 16, generator=g) > 0.5).float(),
        "mask": torch.randint(3, (rows, 16, 16), generator=g),
    }


def test_what_is_joined_is_the_known_latent_the_hole_as_signs_and_the_mixed_map():
    seen = {}

    class Spy(nets.Net):
        def __init__(self):
            super().__init__({"concat": 9}, nets.Conditions(concat=9))
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x, t, *, taps=(), **cond):
            seen.update(cond)
            return x

    net = ConcatCondition(Spy(), known=4, maps=3, factor=4)
    cond = conditions()
    net(torch.zeros(2, 4, 4, 4), torch.rand(2), **cond)
    joined = seen["concat"]
    assert torch.equal(joined[:, :4], cond["known"])
    assert torch.equal(joined[:, 4:5], 2 * cond["hole"][:, :, ::4, ::4] - 1)  # the nearest pixel
    hot = nn.functional.one_hot(cond["mask"], 3).movedim(-1, 1).float()
    for _ in range(2):  # bilinear halvings
        hot = nn.functional.interpolate(hot, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(joined[:, 5:], net.rescaler(hot), rtol=0, atol=1e-6)


def test_the_gradient_reaches_the_mask_encoder_unless_it_is_left_at_random():
    for learns in (True, False):
        net = woken(concat_net(train_rescaler=learns))
        net(torch.randn(2, 4, 4, 4), torch.rand(2), **conditions()).square().sum().backward()
        assert net.rescaler.weight.requires_grad == learns
        assert (net.rescaler.weight.grad is not None) == learns
        assert net.rescaler.bias is None
        assert all(p.grad is not None for p in net.net.parameters())


def test_null_conditions_know_nothing_and_may_stand_beside_real_ones():
    net = woken(concat_net()).eval()
    field = core.Field(net, shape=(4, 4, 4))
    x, cond = torch.randn(2, 4, 4, 4), conditions()
    null = {n: net.null(n, 2) for n in net.conditions}
    full = {
        "known": torch.zeros(2, 4, 4, 4),
        "hole": torch.ones(2, 1, 16, 16),
        "mask": torch.full((2, 16, 16), 255),
    }
    t = torch.rand(2)
    torch.testing.assert_close(net(x, t, **null), net(x, t, **full))
    assert (net(x, t, **cond) - net(x, t, **null)).abs().max() > 1e-3
    guided = draw(field, 2, steps=[0.5, 1.0], solver="euler", source=x, guidance=2.0, **cond)
    v, u = field(x, 0.5, **cond), field(x, 0.5, **null)
    torch.testing.assert_close(guided, x + 0.5 * (2 * v - u), rtol=1e-4, atol=1e-4)


def test_the_configuration_of_a_conditioned_network_rebuilds_it():
    net = concat_net(train_rescaler=False)
    again = core.config.load(json.loads(json.dumps(core.config.dump(net))))
    assert type(again) is ConcatCondition
    assert again.config == net.config
    again.load_state_dict(net.state_dict())
    assert again.attentions == net.attentions


def test_conditions_of_wrong_names_shapes_and_numbers_are_refused():
    net, x, t, cond = concat_net(), torch.zeros(2, 4, 4, 4), torch.rand(2), conditions()
    for change, match in (
        ({"concat": x}, "Unknown condition 'concat'. This network takes: hole, known, mask"),
        ({"known": None}, r"Condition known is missing; null\('known', rows\)"),
        ({"known": x[:, :3]}, r"known must have shape \(2, 4, height, width\), got \(2, 3, 4, 4\)"),
        ({"hole": cond["hole"][:, 0]}, r"hole must have shape \(2, 1, height, width\)"),
        ({"mask": cond["mask"] + 5}, r"mask must lie in 0 \.\. 2 \(255 for none\), got [567]"),
        ({"mask": torch.full((2, 16, 16), 3)}, r"255 for none\), got 3"),
        ({"mask": cond["mask"].float()}, "mask must be whole numbers"),
        ({"mask": cond["mask"][:, :8]}, "4 times as large as x, 16 x 16, got 8 x 16"),
    ):
        given = {n: v for n, v in {**cond, **change}.items() if v is not None}
        with pytest.raises(ConditionError, match=match):
            net(x, t, **given)
    with pytest.raises(ConditionError, match="Unknown condition 'concat'"):
        net.null("concat", 1)
    with pytest.raises(OptionError, match=r"joins 9 channels, but 5 are made here. Build it with concat=5"):
        ConcatCondition(UNet(4, width=8, multipliers=(1, 2), concat=9), known=4)
    with pytest.raises(OptionError, match="needs a hole"):
        ConcatCondition(UNet(4, width=8, multipliers=(1, 2), concat=9))


def test_inpainting_rows_carry_the_picture_without_its_hole(digits):
    holed = inpainting(replace(digits, conditions=()), holes=halves, each=2)
    rows = torch.tensor([0, 1, 5])
    batch = holed.batch(rows)
    assert len(holed) == 128
    assert batch.cond.keys() == {"known", "hole"}
    assert torch.equal(batch.x, digits.batch(rows // 2).x)
    visible = batch.cond["hole"] == 0
    assert torch.equal(batch.cond["known"][visible], batch.x[visible])
    assert (batch.cond["known"][~visible] == -1).all()  # black in [-1, 1]
    assert inpainting(digits).batch(rows).cond.keys() == {"label", "known", "hole"}


def test_inpainting_rows_of_latents_carry_the_latent_of_the_picture_without_its_hole(digits):
    torch.manual_seed(0)
    net = Autoencoder(1, factor=2, width=8).eval().requires_grad_(False)
    holed = inpainting(digits, LatentCodec(net), holes=halves)
    codec = holed.coded.codec
    x = digits.batch(torch.arange(3)).x
    known = holed.batch(torch.arange(3)).cond["known"]
    assert known.shape == (3, 4, 4, 4)
    expected = codec.encode(hidden(x, halves(3, 8, 8)))
    torch.testing.assert_close(known, expected, rtol=0, atol=1e-5)
    with pytest.raises(OptionError, match="Holes do not turn with their pictures"):
        inpainting(replace(digits, flip=True))
    with pytest.raises(OptionError, match="each must be at least 1"):
        inpainting(digits, each=0)
    with pytest.raises(ShapeError, match="A hole has the shape of its pictures"):
        inpainting(digits, holes=lambda n, h, w: torch.zeros(n, h, w))


def test_a_hole_is_filled_by_the_flow_and_the_known_pixels_come_back_when_composited():
    class Known(nets.Net):
        """The velocity that leads to the known picture, wherever one is."""

        def __init__(self):
            super().__init__({})
            self.w = nn.Parameter(torch.zeros(1))
            self.conditions = frozenset({"known", "hole"})

        def forward(self, x, t, *, taps=(), known, hole):
            return (known + 0.25 - x) / (1 - t.reshape(-1, 1, 1, 1)).clamp(min=1e-6)

    flow = LatentFlow(core.Field(Known(), shape=(1, 4, 4)), same())
    x, hole = torch.rand(2, 1, 4, 4), halves(2, 4, 4)
    filled = flow.inpaint(x, hole, steps=4, solver="euler")
    torch.testing.assert_close(filled, hidden(x, hole) + 0.25, rtol=0, atol=1e-5)
    mixed = flow.inpaint(x, hole, steps=4, solver="euler", composite=True)
    assert torch.equal(mixed[:, :, :2], x[:, :, :2])
    torch.testing.assert_close(mixed[:, :, 2:], torch.full((2, 1, 2, 4), -0.75), rtol=0, atol=1e-5)
    with pytest.raises(ConditionError, match="takes no hole"):
        LatentFlow(latent_field(MLP(2)), same()).inpaint(x, hole)
