"""Training an autoencoder: its loss, its runs, and what is refused."""

import copy
from dataclasses import replace

import pytest
import torch

from rheos import core
from rheos.core import Draws
from rheos.core.errors import OptionError
from rheos.data import Data, load
from rheos.nets import MLP, Autoencoder
from rheos.train import Autoencoding, Options, autoencoder, codec_of, fit

SHORT = Options(batch=16, lr=1e-3, save_every=2, log_every=2, sample_every=0, warmup=2, ema=0.9)


@pytest.fixture
def digits() -> Data:
    return load("digits", limit=64)


def test_training_an_autoencoder_lowers_its_error_and_resumes_bit_by_bit(tmp_path, digits):
    options, constant = replace(SHORT, ema=0.5), replace(SHORT, ema=0.5, decay="constant")
    net = Autoencoder(1, factor=2, width=8)
    start = copy.deepcopy(net)
    whole = autoencoder(digits, net=net, steps=12, out=tmp_path / "a", options=options, progress=False)
    lines = whole.metrics()
    assert lines[-1]["reconstruction"] < 0.7 * lines[0]["reconstruction"]
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["reconstruction"] + 1e-3 * lines[-1]["kl"], rel=1e-5)
    autoencoder(digits, net=copy.deepcopy(start), steps=6, out=tmp_path / "b", options=constant,
                progress=False)  # fmt: skip
    first = autoencoder(digits, net=copy.deepcopy(start), steps=12, out=tmp_path / "c",
                        options=constant, progress=False)  # fmt: skip
    more = autoencoder(digits, net=start, steps=12, out=tmp_path / "b", options=constant,
                       progress=False, resume=True)  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(first.field.parameters(), more.field.parameters(), strict=True))


def test_the_divergence_is_that_of_gaussians_and_the_loss_its_sum_with_the_error():
    torch.manual_seed(0)
    field = core.Field(Autoencoder(1, factor=2, width=8).double())
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    objective = Autoencoding(kl=0.5)
    plan = objective.prepare(field, x, {}, Draws.training(0, 0, 3))
    loss = objective.loss(field, plan)
    mean, std = field.net.encode(x)
    normal, prior = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(normal, prior).flatten(1).sum(1) / 64
    error = (field.net.decode(mean + std * plan.x0) - x).square().flatten(1).mean(1)
    torch.testing.assert_close(loss.rows, error + 0.5 * divergence, rtol=0, atol=1e-12)
    assert float(plan.weight.sum()) == pytest.approx(1.0)


def test_an_autoencoder_is_suggested_by_size_and_what_is_none_is_refused(digits):
    shapes = {8: 2, 16: 4, 32: 4, 64: 8}
    for side, factor in shapes.items():
        assert Autoencoding().network(Data(torch.zeros(1, 3, side, side, dtype=torch.uint8))).factor == factor
    from rheos.core.errors import DataError

    with pytest.raises(DataError, match="5 x 5 cannot be halved"):
        Autoencoding().network(Data(torch.zeros(1, 3, 5, 5, dtype=torch.uint8)))
    with pytest.raises(DataError, match="learns from pictures"):
        Autoencoding().network(load("moons", limit=3))
    with pytest.raises(OptionError, match="kl must be 0 or positive"):
        Autoencoding(kl=-1.0)
    with pytest.raises(OptionError, match="got one of MLP"):
        fit(core.Field(MLP(64)), Autoencoding(), replace(digits, conditions=()), steps=1, options=SHORT)
    run = fit(core.Field(MLP(2)), core.FlowMatching(), load("moons", limit=20), steps=1, options=SHORT, progress=False)
    with pytest.raises(OptionError, match="trained a MLP, not an autoencoder"):
        codec_of(run)
