import pytest
import torch
from torch import nn

from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.nets import UNet, parameters


def test_the_default_network_has_one_to_two_million_parameters():
    assert 1e6 < parameters(UNet(channels=1, classes=10)) < 2e6
    assert 1e6 < parameters(UNet(channels=3, classes=10)) < 2e6


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (20, 8)])
def test_any_size_that_its_levels_divide_will_do(size, awake):
    net = awake(UNet(1, width=8, heads=1, attention=(0, 1)), dtype=torch.float32)
    assert net(torch.zeros(2, 1, *size), torch.rand(2)).shape == (2, 1, *size)


@pytest.mark.parametrize("size", [(6, 8), (8, 10), (7, 7)])
def test_other_sizes_are_refused_with_the_divisor(size):
    with pytest.raises(ShapeError, match=rf"divisible by 4, got {size[0]} x {size[1]}.*fewer levels"):
        UNet(1, width=8, heads=1)(torch.zeros(1, 1, *size), torch.zeros(1))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8)])
def test_what_is_no_picture_of_its_channels_is_refused(shape):
    with pytest.raises(ShapeError, match=r"pictures of shape \(B, 1, height, width\), got \(2,"):
        UNet(1, width=8, heads=1)(torch.zeros(shape), torch.zeros(2))


def test_the_output_may_have_other_channels():
    net = UNet(2, width=8, heads=1, out_channels=4)
    assert net(torch.zeros(3, 2, 8, 8), torch.rand(3)).shape == (3, 4, 8, 8)


def test_both_memory_formats_compute_the_same(awake):
    one, other = (awake(UNet(2, width=16, heads=2, attention=(-1,), channels_last=last)) for last in (True, False))
    x, t = torch.randn(3, 2, 8, 8, dtype=torch.float64), torch.rand(3)
    torch.testing.assert_close(one(x, t), other(x, t), rtol=0, atol=1e-11)


@pytest.mark.parametrize("last", [True, False])
def test_every_feature_map_lies_in_memory_as_asked(last):
    net = UNet(1, width=16, heads=2, attention=(-1,), channels_last=last)
    wanted = torch.channels_last if last else torch.contiguous_format
    seen = []
    for part in net.modules():
        if isinstance(part, nn.Conv2d) and part.out_channels > 1:
            part.register_forward_hook(lambda m, i, out: seen.append(out.is_contiguous(memory_format=wanted)))
    net(torch.zeros(2, 1, 8, 8), torch.rand(2))
    assert len(seen) > 10
    assert all(seen)


def test_mirroring_weights_mirrors_the_output(awake):
    net = awake(UNet(1, width=8, heads=1, attention=(-1,)))
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.rand(2)
    out = net(x, t)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.flip(3)
    torch.testing.assert_close(net(x.flip(3), t), out.flip(3), rtol=0, atol=1e-11)


def test_transposing_weights_transposes_the_output(awake):
    net = awake(UNet(1, width=8, heads=1, attention=(-1,)))
    x, t = torch.randn(2, 1, 4, 8, dtype=torch.float64), torch.rand(2)
    out = net(x, t)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.mT
    torch.testing.assert_close(net(x.mT, t), out.mT, rtol=0, atol=1e-11)


def test_a_null_picture_of_one_pixel_is_a_picture_of_zeros(awake):
    net = awake(UNet(1, width=8, heads=1, concat=2))
    x, t = torch.randn(2, 1, 8, 4, dtype=torch.float64), torch.rand(2)
    zeros = torch.zeros(2, 2, 8, 4, dtype=torch.float64)
    assert torch.equal(net(x, t, concat=net.null("concat", 2)), net(x, t, concat=zeros))


def test_a_concatenated_picture_of_another_size_is_refused():
    net = UNet(1, width=8, heads=1, concat=2)
    with pytest.raises(ConditionError, match="concat must have the size of x, 8 x 4, or one pixel, got 4 x 4"):
        net(torch.zeros(2, 1, 8, 4), torch.rand(2), concat=torch.zeros(2, 2, 4, 4))


def test_attention_sits_where_it_was_asked_for():
    options = {"width": 8, "heads": 1, "multipliers": (1, 1, 1), "blocks": 2}
    assert UNet(1, **options).attentions == ()
    assert UNet(1, attention=(1,), **options).attentions == ("down.1.0", "down.1.1", "up.1.0", "up.1.1")
    deepest = ("down.2.0", "down.2.1", "middle", "up.2.0", "up.2.1")
    assert UNet(1, attention=(-1,), **options).attentions == UNet(1, attention=(2,), **options).attentions == deepest


def test_dropout_acts_only_while_training():
    net = UNet(1, width=8, heads=1, dropout=0.5)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


def test_impossible_options_are_refused():
    with pytest.raises(OptionError, match="positive sizes and a dropout"):
        UNet(1, width=0)
    with pytest.raises(OptionError, match="positive sizes"):
        UNet(1, multipliers=())
    with pytest.raises(OptionError, match=r"attention names the levels \[3\], but there are 3"):
        UNet(1, attention=(3,))
    with pytest.raises(OptionError, match=r"3 heads do not divide the 128 channels of attention 'down\.2\.0'"):
        UNet(1, attention=(-1,), heads=3)
