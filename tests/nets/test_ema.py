import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rheos.core.errors import CheckpointError, OptionError
from rheos.nets import EMA


class Small(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=dtype))
        self.frozen = nn.Parameter(torch.full((2,), 5.0, dtype=dtype), requires_grad=False)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("scale", torch.tensor(1.0, dtype=dtype))


def set_(module, value):
    with torch.no_grad():
        module.weight.fill_(value)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(decay=st.floats(0, 0.999), n=st.integers(0, 30))
def test_a_constant_weight_is_approached_geometrically(decay, n):
    module = Small()
    ema = EMA(module, decay, warmup=False)
    set_(module, 1.0)
    for _ in range(n):
        ema.update()
    assert ema.weights()["weight"].tolist() == pytest.approx([1 - decay**n] * 3, abs=1e-12)


def test_a_young_average_forgets_faster():
    module = Small()
    ema = EMA(module, decay=0.5)
    set_(module, 1.0)
    rest = 1.0
    for n in range(20):
        ema.update()
        rest *= min(0.5, (1 + n) / (10 + n))
        assert ema.weights()["weight"][0].item() == pytest.approx(1 - rest, abs=1e-12)


def test_the_average_is_linear_in_the_history():
    histories = torch.randn(2, 12, dtype=torch.float64)
    ends = []
    for history in (*histories, histories.sum(0)):
        module = Small()
        ema = EMA(module, 0.9)
        for value in history.tolist():
            set_(module, value)
            ema.update()
        ends.append(ema.weights()["weight"])
    torch.testing.assert_close(ends[0] + ends[1], ends[2])


def test_buffers_are_copied_and_equal_weights_stay_bit_for_bit():
    module = Small()
    ema = EMA(module)
    module.steps += 7
    module.scale.fill_(0.1)
    for _ in range(3):
        ema.update()
    weights = ema.weights()
    assert weights["steps"] == 7
    assert weights["scale"] == module.scale
    assert torch.equal(weights["frozen"], module.frozen)


def test_swap_evaluates_the_average_and_returns_the_raw_weights_bit_for_bit():
    module = Small()
    ema = EMA(module, 0.5, warmup=False)
    set_(module, 1.0 / 3.0)
    ema.update()
    raw = {n: v.clone() for n, v in module.state_dict().items()}
    parameter = module.weight
    with ema.swap() as inside:
        assert inside is module
        assert torch.equal(module.weight, ema.weights()["weight"])
    assert module.weight is parameter
    assert all(torch.equal(v, raw[n]) for n, v in module.state_dict().items())


def test_swap_restores_after_an_exception():
    module = Small()
    ema = EMA(module)
    set_(module, 1.0)
    with pytest.raises(KeyError), ema.swap():
        raise KeyError
    assert module.weight.tolist() == [1.0] * 3
    ema.update()


def test_another_module_of_the_same_build_may_be_swapped():
    module, other = Small(), Small()
    ema = EMA(module, 0.0, warmup=False)
    set_(module, 2.0)
    set_(other, 9.0)
    ema.update()
    with ema.swap(other):
        assert other.weight.tolist() == [2.0] * 3
        assert module.weight.tolist() == [2.0] * 3
    assert other.weight.tolist() == [9.0] * 3


def test_resuming_is_exact():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, generator=generator, dtype=torch.float64).tolist()
    one, two = Small(), Small()
    whole = EMA(one, 0.9)
    for value in values:
        set_(one, value)
        whole.update()
    first = EMA(two, 0.9)
    for value in values[:11]:
        set_(two, value)
        first.update()
    second = EMA(Small(), 0.9)
    second.load_state_dict({n: v.clone() for n, v in first.state_dict().items()})
    for value in values[11:]:
        set_(second.module, value)
        second.update()
    assert all(isinstance(v, torch.Tensor) for v in second.state_dict().values())
    assert all(torch.equal(v, whole.state_dict()[n]) for n, v in second.state_dict().items())


def test_the_weights_load_into_the_module():
    module = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    other = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    other.load_state_dict(EMA(module).weights())
    assert torch.equal(other(torch.ones(1, 2)), module(torch.ones(1, 2)))


def test_short_weights_are_averaged_in_single_precision():
    module = Small(torch.bfloat16)
    ema = EMA(module, 0.999, warmup=False)
    set_(module, 1.0)
    for _ in range(1000):
        ema.update()
    average = ema.state_dict()["weights.weight"]
    assert average.dtype == torch.float32
    assert average[0].item() == pytest.approx(1 - 0.999**1000, abs=1e-4)  # a bf16 average would stop at 0.25
    assert ema.weights()["weight"].dtype == torch.bfloat16
    with ema.swap():
        assert module.weight[0].item() == pytest.approx(1 - 0.999**1000, abs=2**-8)


def test_a_module_that_moved_is_still_followed():
    module = Small()
    ema = EMA(module, 0.0, warmup=False)
    module.to(torch.float64)._apply(lambda v: v.clone())  # as .to(device) does: buffers are new objects
    module.steps += 3
    set_(module, 1.0)
    ema.update()
    assert ema.weights()["steps"] == 3
    assert ema.weights()["weight"].tolist() == [1.0] * 3


def test_misuse_is_refused():
    module = Small()
    with pytest.raises(OptionError, match=r"must lie in \[0, 1\), got 1\.0"):
        EMA(module, 1.0)
    ema = EMA(module)
    with ema.swap(), pytest.raises(OptionError, match=r"update\(\) was called inside EMA\.swap\(\)"):
        ema.update()
    with ema.swap(), pytest.raises(OptionError, match="raw weights are put away already"), ema.swap():
        pass
    with pytest.raises(OptionError, match="differ in name or shape"), ema.swap(nn.Linear(1, 1)):
        pass


def test_a_foreign_state_is_refused_and_changes_nothing():
    ema = EMA(Small())
    before = {n: v.clone() for n, v in ema.state_dict().items()}
    state = {**before, "weights.weight": torch.ones(4)}
    with pytest.raises(CheckpointError, match=r"another network: 1 entries differ, such as 'weights\.weight'"):
        ema.load_state_dict(state)
    with pytest.raises(CheckpointError, match="another network"):
        ema.load_state_dict({"count": torch.tensor(1)})
    assert all(torch.equal(v, before[n]) for n, v in ema.state_dict().items())
