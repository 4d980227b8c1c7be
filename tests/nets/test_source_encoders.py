import pytest
import torch
from torch import nn
from torch.nn import functional

from rheos import nets
from rheos.core.errors import ConditionError, OptionError, ShapeError, UnknownOptionError

MAKERS = {
    "vector": (lambda: nets.VectorEncoder(6, (2, 4, 4), hidden=8), (2, 3)),
    "tokens": (
        lambda: nets.TokenEncoder(3, 16, (2, 4, 4), depth=1, reductions=1, heads=2, feedforward=8, dropout=0.0),
        (3, 16),
    ),
    "compressed tokens": (
        lambda: nets.TokenEncoder(
            3, 20, (2, 4, 4), compress=8, depth=1, reductions=1, heads=2, feedforward=8, head="norm"
        ),
        (3, 20),
    ),
    "tokens with convolutions": (
        lambda: nets.TokenEncoder(3, 8, (2, 4, 4), depth=0, reductions=2, heads=2, feedforward=8, head="conv"),
        (3, 8),
    ),
    "picture": (lambda: nets.PictureEncoder(3, (4, 4), (2, 4, 4), width=8), (3, 4, 4)),
    "picture to a vector": (lambda: nets.PictureEncoder(1, (8, 6), (5,), width=8), (1, 8, 6)),
    "upsampled": (lambda: nets.Upsampled((2, 4, 4)), (2, 2, 2)),
}


@pytest.fixture(params=list(MAKERS))
def case(request):
    torch.manual_seed(0)
    make, shape = MAKERS[request.param]
    return make().double().eval(), torch.randn(5, *shape, dtype=torch.float64)


def test_mean_and_log_variance_have_the_targets_shape(case):
    net, source = case
    law = net(source)
    assert law.mean.shape == law.log_variance.shape == (5, *net.shape)
    assert law.mean.isfinite().all()
    assert law.log_variance.isfinite().all()


def test_rows_are_independent(case):
    net, source = case
    order = torch.tensor([3, 0, 4])
    for whole, part in zip(net(source), net(source[order]), strict=True):
        torch.testing.assert_close(whole[order], part)


def test_the_config_builds_an_equal_network(case):
    net, source = case
    again = type(net)(**net.config).double().eval()
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again(source).mean, net(source).mean)


def test_padded_tokens_reach_the_latent_through_their_own_rows_alone():
    torch.manual_seed(0)
    net = MAKERS["tokens"][0]().double().eval()
    a = torch.randn(1, 3, 16, dtype=torch.float64)
    b = a.clone()
    b[:, 2] = 9.0
    mask = torch.tensor([[True, True, False]])
    attended = []
    net.head.register_forward_pre_hook(lambda _, args: attended.append(args[0].unflatten(1, (3, -1))))
    za, zb = net(a, mask).mean, net(b, mask).mean
    first, second = attended
    torch.testing.assert_close(first[:, :2], second[:, :2])  # the others do not see it
    assert not torch.allclose(first[:, 2], second[:, 2])
    assert not torch.allclose(za, zb)  # but its own row is flattened with theirs
    assert not torch.allclose(net(a).mean, za)


def test_masking_nothing_is_no_mask():
    torch.manual_seed(0)
    net = MAKERS["tokens"][0]().double().eval()
    a = torch.randn(2, 3, 16, dtype=torch.float64)
    torch.testing.assert_close(net(a, torch.ones(2, 3, dtype=torch.bool)).mean, net(a).mean)


def test_the_defaults_are_the_published_sizes():
    net = nets.TokenEncoder(2, 768, (4, 2, 2))
    assert (len(net.layers), len(net.halvings), net.layers[0].heads) == (11, 3, 8)
    assert net.layers[0].dense[0].out_features == 1024
    assert net.head[-1].in_features == 2 * 768 // 8
    assert net.head[-1].out_features == 2 * 16
    assert net.layers[0].dropout == 0.1


def test_upsampling_keeps_the_mean_and_has_the_std_that_was_asked_for():
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    for mode in ("nearest", "bilinear", "bicubic"):
        law = nets.Upsampled((1, 8, 8), std=0.2, mode=mode)(x)
        torch.testing.assert_close((0.5 * law.log_variance).exp(), torch.full_like(law.mean, 0.2))
        flat = nets.Upsampled((1, 8, 8), mode=mode)(torch.full_like(x, 0.7)).mean
        torch.testing.assert_close(flat, torch.full_like(flat, 0.7))
    assert float(nets.Upsampled((1, 8, 8), std=0.0)(x).log_variance.max()) == -30.0


def test_wrong_sources_are_refused():
    with pytest.raises(ShapeError, match="6 numbers"):
        nets.VectorEncoder(6, (2,))(torch.zeros(1, 5))
    with pytest.raises(ConditionError, match="no meaning"):
        nets.VectorEncoder(6, (2,))(torch.zeros(1, 6), torch.ones(1, 6))
    tokens = MAKERS["tokens"][0]()
    with pytest.raises(ShapeError, match="not interchangeable"):
        tokens(torch.zeros(1, 3, 20))
    with pytest.raises(ConditionError, match="mask of tokens"):
        tokens(torch.zeros(1, 3, 16), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ShapeError, match="made for sources"):
        nets.PictureEncoder(3, (4, 4), (2,))(torch.zeros(1, 3, 5, 4))
    with pytest.raises(ConditionError, match="no tokens"):
        nets.PictureEncoder(3, (4, 4), (2,))(torch.zeros(1, 3, 4, 4), torch.ones(1, 4))
    with pytest.raises(ShapeError, match="Sources to upsample"):
        nets.Upsampled((1, 8, 8))(torch.zeros(1, 3, 4, 4))


def test_wrong_sizes_are_refused():
    with pytest.raises(OptionError, match="positive sizes"):
        nets.VectorEncoder(6, (0, 2))
    with pytest.raises(OptionError, match="dim, hidden and depth"):
        nets.VectorEncoder(0, (2,))
    with pytest.raises(OptionError, match="cannot be halved 3 times"):
        nets.TokenEncoder(2, 12, (2,), heads=2)
    with pytest.raises(OptionError, match="positive sizes and a dropout"):
        nets.TokenEncoder(0, 16, (2,), heads=2)
    with pytest.raises(UnknownOptionError, match="head 'covn'"):
        nets.TokenEncoder(2, 16, (2,), heads=2, head="covn")
    with pytest.raises(OptionError, match="makes pictures"):
        nets.TokenEncoder(2, 16, (2,), heads=2, head="conv")
    with pytest.raises(OptionError, match="PictureEncoder needs"):
        nets.PictureEncoder(0, (4, 4), (2,))
    with pytest.raises(OptionError, match="at least 0"):
        nets.Upsampled((1, 8, 8), std=-1.0)
    with pytest.raises(UnknownOptionError, match="mode"):
        nets.Upsampled((1, 8, 8), mode="cubic")


# Towers


@pytest.mark.parametrize(
    "tower", [lambda: nets.VectorTower(32, out=7), lambda: nets.PictureTower(2, 4, out=7, patch=2, dim=16, heads=2)]
)
def test_towers_read_each_target_by_itself(tower):
    torch.manual_seed(0)
    net = tower().double()
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    y = net(x)
    assert y.shape == (4, 7)
    torch.testing.assert_close(y[1:3], net(x[1:3]))
    again = type(net)(**net.config).double()
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again(x), y)


def test_a_picture_tower_knows_where_patches_are():
    torch.manual_seed(0)
    net = nets.PictureTower(1, 4, patch=2, dim=16, depth=1, heads=2)
    x = torch.zeros(1, 1, 4, 4)
    x[..., :2, :2] = 1.0
    assert not torch.allclose(net(x), net(x.flip(-1)))


def test_wrong_towers_are_refused():
    with pytest.raises(OptionError, match="VectorTower needs"):
        nets.VectorTower(0)
    with pytest.raises(ShapeError, match="targets of 4 numbers"):
        nets.VectorTower(4)(torch.zeros(1, 5))
    with pytest.raises(OptionError, match="must divide the picture"):
        nets.PictureTower(1, 6, patch=4)
    with pytest.raises(OptionError, match="PictureTower needs"):
        nets.PictureTower(0, 4)
    with pytest.raises(ShapeError, match="made for pictures"):
        nets.PictureTower(1, 4, patch=2, dim=16, heads=2)(torch.zeros(1, 1, 8, 8))


# Several resolutions


def test_the_finest_of_all_scales_is_the_prediction(awake):
    net = awake(nets.MultiRes(2, 16, stages=3, dim=16, width=8, depth=1, blocks=1, heads=2, classes=3))
    x, t, label = torch.randn(2, 2, 16, 16).double(), torch.rand(2).double(), torch.tensor([0, 3])
    scales = net.scales(x, t, label=label)
    assert [y.shape[-1] for y in scales] == [4, 8, 16]
    assert net.scale_weights == (0.25, 0.5, 1.0)
    torch.testing.assert_close(scales[-1], net(x, t, label=label))


def test_the_coarsest_scale_sees_the_averaged_picture_alone(awake):
    net = awake(nets.MultiRes(1, 8, stages=2, dim=16, width=8, depth=1, blocks=1, heads=2))
    x, t = torch.randn(1, 1, 8, 8).double(), torch.rand(1).double()
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).double()
    a, b = net.scales(x, t), net.scales(x + checker, t)
    torch.testing.assert_close(a[0], b[0])
    assert not torch.allclose(a[1], b[1])


def test_a_network_of_several_scales_is_a_network_like_others(awake, batch):
    net = awake(nets.MultiRes(1, 8, stages=2, dim=16, width=8, depth=1, blocks=1, heads=2, embedding=3))
    x, t, cond = batch(net, (1, 8, 8))
    y = net(x, t, **cond)
    assert y.shape == x.shape
    order = torch.tensor([2, 0])
    torch.testing.assert_close(net(x[order], t[order], **{n: v[order] for n, v in cond.items()}), y[order])
    again = awake(nets.MultiRes(**net.config))
    torch.testing.assert_close(again(x, t, **cond), y)
    assert net.attentions == ("blocks.0.self",)


def test_wrong_scales_are_refused():
    with pytest.raises(OptionError, match="a side of 6"):
        nets.MultiRes(1, 6, stages=2)
    with pytest.raises(OptionError, match="MultiRes needs"):
        nets.MultiRes(0, 8)
    with pytest.raises(ShapeError, match="8 x 8 pixels"):
        nets.MultiRes(1, 8, dim=16, heads=2)(torch.zeros(1, 1, 16, 16), torch.zeros(1))


@pytest.mark.parametrize("training", [False, True])
def test_a_layer_of_tokens_is_torchs_own_with_all_its_dropout(training):
    torch.manual_seed(0)
    ours = nets.TokenEncoder(6, 8, (2,), depth=1, reductions=0, heads=2, feedforward=16, dropout=0.3).layers[0]
    peer = nn.TransformerEncoderLayer(8, 2, 16, 0.3, activation="gelu", batch_first=True)
    peer.self_attn.in_proj_weight.data, peer.self_attn.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    pairs = ((peer.self_attn.out_proj, ours.out), (peer.norm1, ours.first), (peer.norm2, ours.second))
    for theirs, own in (*pairs, (peer.linear1, ours.dense[0]), (peer.linear2, ours.dense[3])):
        theirs.load_state_dict(own.state_dict())
    h, padding = torch.randn(1, 6, 8), torch.tensor([[False] * 4 + [True] * 2])
    found = []
    for layer, given in ((ours, {"seen": ~padding[:, None, None]}), (peer, {"src_key_padding_mask": padding})):
        torch.manual_seed(1)
        found.append(layer.train(training)(h, **given))
    torch.testing.assert_close(*found)


# Text


def test_a_text_autoencoders_latents_have_mean_zero_and_unit_mean_square():
    torch.manual_seed(0)
    net = nets.TextAutoencoder(5, 27, latent=32, width=16).double()
    z = net.encode(functional.one_hot(torch.randint(27, (4, 5)), 27).double())
    torch.testing.assert_close(z.square().mean(1), torch.ones(4).double(), rtol=1e-2, atol=0)  # layer norm's epsilon
    torch.testing.assert_close(z.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-9)


def test_decoded_probabilities_leave_room_for_no_symbol():
    torch.manual_seed(0)
    net = nets.TextAutoencoder(5, 27, latent=32, width=16)
    p = net.decode(torch.randn(3, 32))
    assert p.shape == (3, 5, 27)
    assert (p.sum(2) < 1).all()


def test_wrong_texts_are_refused():
    with pytest.raises(OptionError, match="TextAutoencoder needs"):
        nets.TextAutoencoder(5, 27, width=6)
    with pytest.raises(ShapeError, match="made for texts"):
        nets.TextAutoencoder(5, 27).encode(torch.zeros(1, 4, 27))
