import json

import pytest
import torch

from rheos.core.errors import OptionError, ShapeError
from rheos.nets import FeatureNet, parameters


@pytest.mark.parametrize("size", [8, 16, 28, 32])
def test_pictures_of_any_size_have_features(size):
    net = FeatureNet(3, 7, 16, width=8, features=5)
    x = torch.randn(4, 3, size, size)
    assert net.features(x).shape == (4, 5)
    assert net(x).shape == (4, 7)


def test_a_flat_picture_has_the_same_features_at_every_size():
    net = FeatureNet(1, 2, 16, width=8).double()
    flat = [net.features(torch.full((1, 1, *size), 0.3, dtype=torch.float64)) for size in ((8, 8), (28, 28), (9, 40))]
    for features in flat:
        torch.testing.assert_close(features, net.features(torch.full((1, 1, 16, 16), 0.3, dtype=torch.float64)))


def test_shrinking_is_antialiased():
    net = FeatureNet(1, 2, 8, width=8).double()
    stripes = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(16).expand(1, 1, 32, 32)
    grey = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    inner = slice(2, 6)  # away from the border, where the filter sees an odd number of stripes
    seen = []
    net.stages.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    net.features(stripes)
    torch.testing.assert_close(seen[0][..., inner], grey[..., inner], rtol=0, atol=1e-12)


def test_rows_do_not_see_each_other_even_while_training():
    net = FeatureNet(1, 3, 8, width=8, dropout=0.0).double().train()
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    order = torch.randperm(6)
    torch.testing.assert_close(net(x[order]), net(x)[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(net(x[:2]), net(x)[:2], rtol=0, atol=1e-12)


def test_class_scores_are_affine_in_the_features():
    net = FeatureNet(1, 3, 8, width=8).eval()
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(net(x), net.head[1](net.features(x)))


@pytest.mark.parametrize(("channels", "classes", "width"), [(1, 10, 24), (3, 60, 32)])
def test_a_shipped_net_stays_below_two_megabytes(channels, classes, width):
    assert 4 * parameters(FeatureNet(channels, classes, 32, width=width)) < 2e6


def test_the_configuration_is_json_and_rebuilds_the_net():
    net = FeatureNet(3, 7, 16, width=8, features=5, dropout=0.2)
    again = FeatureNet(**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    assert again.config == net.config


def test_what_is_no_picture_of_its_channels_is_refused():
    with pytest.raises(ShapeError, match=r"pictures of shape \(B, 1, height, width\), got \(2, 3, 8, 8\)"):
        FeatureNet(1, 2, 8, width=8)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(OptionError, match=r"a size that 8 divides .* size=20"):
        FeatureNet(1, 2, 20)
