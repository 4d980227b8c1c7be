"""The convolutional autoencoder: shapes, posterior, and what it refuses."""

import json

import pytest
import torch

from rheos.core import config
from rheos.core.errors import OptionError, ShapeError
from rheos.nets import Autoencoder


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_height_and_width_shrink_by_the_factor_and_come_back(factor):
    net = Autoencoder(3, latent=5, factor=factor, width=8)
    x = torch.randn(2, 3, 16, 24)
    mean, std = net.encode(x)
    assert mean.shape == (2, 5, 16 // factor, 24 // factor)
    assert std.shape == mean.shape
    assert bool((std > 0).all())
    assert net.decode(mean).shape == x.shape


def test_the_configuration_is_json_and_rebuilds_the_network():
    net = Autoencoder(1, factor=2, width=8, multipliers=(1, 3), blocks=2)
    again = config.load(json.loads(json.dumps(config.dump(net))))
    assert type(again) is Autoencoder
    assert again.config == net.config
    again.load_state_dict(net.state_dict())


def test_rows_are_independent():
    net = Autoencoder(1, factor=2, width=8).double().eval()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    whole = net(x).x
    parts = torch.cat([net(x[i : i + 1]).x for i in range(4)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)  # float64 sums in another order


def test_a_sample_is_the_mean_plus_the_deviation_times_the_noise():
    net = Autoencoder(1, factor=2, width=8).double()
    x, noise = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.randn(2, 4, 4, 4, dtype=torch.float64)
    mean, std = net.encode(x)
    torch.testing.assert_close(net(x, noise).x, net.decode(mean + std * noise), rtol=0, atol=1e-12)
    assert torch.equal(net(x).x, net.decode(mean))
    assert torch.equal(net(x, torch.zeros_like(noise)).x, net(x).x)


def test_every_weight_learns():
    net = Autoencoder(1, factor=2, width=8)
    for p in net.parameters():  # what starts at zero hides what is behind it
        torch.nn.init.normal_(p, std=0.1)
    out = net(torch.randn(2, 1, 8, 8), torch.randn(2, 4, 4, 4))
    (out.x.square().sum() + out.log_variance.square().sum()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"factor": 3}, "factor must be one of 1, 2, 4, 8, 16, got 3"),
        ({"factor": 4, "multipliers": (1, 2)}, "factor 4 has 3 sizes"),
        ({"width": 0}, "positive channels"),
    ],
)
def test_sizes_out_of_range_are_refused(options, match):
    with pytest.raises(OptionError, match=match):
        Autoencoder(3, **options)


def test_pictures_and_latents_that_do_not_fit_are_refused():
    net = Autoencoder(3, factor=4, width=8)
    with pytest.raises(ShapeError, match=r"divisible by the factor 4, got 18 x 16"):
        net.encode(torch.zeros(1, 3, 18, 16))
    with pytest.raises(ShapeError, match=r"pictures of shape \(B, 3, height, width\), got \(1, 1, 16, 16\)"):
        net.encode(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ShapeError, match=r"\(B, 4, height, width\), got \(1, 3, 4, 4\)"):
        net.decode(torch.zeros(1, 3, 4, 4))


def test_a_time_in_place_of_noise_is_refused_with_the_way_to_a_flow_of_latents():
    net = Autoencoder(1, factor=2, width=8)
    with pytest.raises(ShapeError, match=r"no flow.*Train a flow on its latents.*codec="):
        net(torch.zeros(2, 1, 8, 8), torch.zeros(2))
