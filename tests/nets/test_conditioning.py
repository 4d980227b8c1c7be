import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.errors import ConditionError, OptionError
from rheos.nets import MLP, Conditioning, Conditions, DiT, UNet, time_features


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(-6, 6), st.integers(1, 20).map(lambda n: 2 * n))
def test_features_are_points_on_circles_that_turn_with_time(t, count):
    features = time_features(torch.tensor([t, 0.0], dtype=torch.float64), count)
    cos, sin = features.chunk(2, 1)
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos))
    assert torch.equal(features[1], torch.cat((torch.ones(count // 2), torch.zeros(count // 2))).double())
    assert cos[0, 0].item() == pytest.approx(math.cos(t), abs=1e-12)


def test_the_fastest_feature_has_the_frequency_asked_for():
    t = torch.tensor([2 * math.pi / 100.0], dtype=torch.float64)
    features = time_features(t, 8, fastest=100.0)
    assert features[0, 3].item() == pytest.approx(1.0, abs=1e-9)
    assert features[0, 7].item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "net",
    [
        UNet(1, width=8, multipliers=(1,), heads=1),
        DiT(1, 4, dim=16, depth=1),
        MLP(16, time_features=64),
    ],
    ids=lambda net: type(net).__name__,
)
def test_a_bf16_network_sees_the_same_times_to_a_millionth(net):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    seen = []
    net.bfloat16().conditioning.time.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(torch.zeros(101, 1, 4, 4, dtype=torch.bfloat16), t)
    exact = time_features(t, 64)
    assert torch.equal(seen[0], exact.bfloat16())
    shifts = torch.arange(-100, 101, dtype=torch.float64) * 1e-7  # read the times off the rounded features
    candidates = torch.stack([time_features(t + s, 64) for s in shifts])
    read = shifts[(candidates - seen[0].double()).square().sum(2).argmin(0)]
    assert read.mean().abs() < 1e-6  # a time rounded to bf16 before would be off by up to 2e-3
    assert read.std() < 3e-6  # 64 features of 8 bits tell a time to 18 bits


def test_single_precision_clocks_tell_times_to_a_ten_millionth():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    error = time_features(t.float(), 64).double() - time_features(t, 64)
    assert error.abs().max() < 256 * 3e-7


def test_a_bf16_network_with_raw_time_does_not_round_it():
    net = MLP(1, hidden=1, depth=1)
    with torch.no_grad():
        net.first.weight.copy_(torch.tensor([[0.0, 256.0]]))
        net.first.bias.fill_(-230.0)
    t = torch.tensor([0.9, 0.9 + 1e-6], dtype=torch.float64)
    assert t[0].bfloat16() == t[1].bfloat16()
    entered = net.bfloat16()._enter(torch.zeros(2, 1, dtype=torch.bfloat16), t.float(), None)
    torch.testing.assert_close(entered.double().flatten(), 256 * t - 230, rtol=2**-8, atol=256e-6)


def test_label_embedding_and_time_add_up_before_the_activation():
    torch.manual_seed(0)
    part = Conditioning(6, features=4, classes=3, embedding=2).double()
    t, label, embedding = torch.rand(5).double(), torch.randint(4, (5,)), torch.randn(5, 2).double()
    total = part.time(time_features(t, 4)) + part.label.weight[label] + part.embedding(embedding)
    torch.testing.assert_close(part(t, label, embedding), torch.nn.functional.silu(total))


def test_a_label_out_of_range_is_an_index_error_on_a_cpu():
    with pytest.raises(IndexError):
        Conditioning(4, classes=3)(torch.zeros(1), label=torch.tensor([4]))


def test_conditioning_on_nothing_or_on_half_a_wave_is_refused():
    with pytest.raises(OptionError, match="all three are 0"):
        Conditioning(4, features=0)
    with pytest.raises(OptionError, match=r"must be even.*got 5"):
        Conditioning(4, features=5)


def test_null_values_are_the_documented_constants():
    accepted = Conditions(classes=3, embedding=2, concat=4, tokens=5, token_dim=6)
    assert accepted.names == {"label", "embedding", "concat", "tokens"}
    assert torch.equal(accepted.null("label", 2), torch.tensor([3, 3]))
    for name, shape in {"embedding": (2, 2), "concat": (2, 4, 1, 1), "tokens": (2, 5, 6)}.items():
        assert torch.equal(accepted.null(name, 2, torch.float64), torch.zeros(shape, dtype=torch.float64))


def test_conditions_of_impossible_sizes_are_refused():
    with pytest.raises(OptionError, match=r"classes must be 0.*got -1"):
        Conditions(classes=-1)
    with pytest.raises(OptionError, match="tokens and token_dim go together, got 5 and 0"):
        Conditions(tokens=5)
    with pytest.raises(ConditionError, match=r"Unknown condition 'label'\. This network takes: embedding\."):
        Conditions(embedding=2).null("label", 1)
