"""Low-rank adapters around every network."""

import pytest
import torch

from rheos.core import Field, config
from rheos.core.errors import MissingExtraError, OptionError
from rheos.nets import MLP, DiT, LoRA, UNet, parameters

CASES = {
    "MLP": (lambda: MLP(2, hidden=16, residual=True, time_features=8, classes=3), (2,)),
    "UNet": (lambda: UNet(1, classes=3, width=8), (1, 8, 8)),
    "DiT": (lambda: DiT(1, 8, dim=16, depth=1, classes=3), (1, 8, 8)),
}


@pytest.fixture(params=CASES)
def case(request):
    torch.manual_seed(0)
    make, shape = CASES[request.param]
    net = make()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return net, (torch.randn(3, *shape), torch.rand(3)), {"label": torch.tensor([0, 2, 3])}


def test_an_adapted_network_begins_as_the_network_that_it_adapts(case):
    net, at, cond = case
    assert torch.equal(LoRA(net)(*at, **cond), net(*at, **cond))


def test_only_adapters_train_and_all_of_them_do(case):
    net, at, cond = case
    adapted = LoRA(net, 2)
    adapted(*at, **cond).square().sum().backward()
    for name, p in adapted.named_parameters():
        assert p.requires_grad == ("lora_" in name)
        assert (p.grad is not None) == p.requires_grad
    assert all(p.requires_grad for p in net.parameters())  # the given one was copied


def test_merged_weights_give_the_same_function_as_a_plain_network(case):
    net, at, cond = case
    adapted = LoRA(net, 2)
    for p in adapted.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    merged = adapted.merged()
    assert type(merged) is type(net)
    assert merged.state_dict().keys() == net.state_dict().keys()
    torch.testing.assert_close(merged(*at, **cond), adapted(*at, **cond), rtol=1e-4, atol=1e-5)  # float32 sums
    assert not torch.allclose(merged(*at, **cond), net(*at, **cond))


def test_a_description_makes_an_equal_network(case):
    net, at, cond = case
    adapted = LoRA(net, 2, alpha=8.0)
    again = config.load(config.dump(adapted))
    assert isinstance(again, LoRA)
    assert again.config == adapted.config
    again.load_state_dict(adapted.state_dict())
    assert torch.equal(again(*at, **cond), adapted(*at, **cond))
    assert again.conditions == net.conditions
    assert torch.equal(again.null("label", 2), net.null("label", 2))
    assert again.attentions == net.attentions


def test_an_adapter_adds_rank_times_the_sides_of_a_matrix():
    net = MLP(2, hidden=64, depth=2)
    sides = [sum(m.weight.shape) for m in net.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(p.numel() for p in LoRA(net, 3).parameters() if p.requires_grad) == 3 * sum(sides)
    assert parameters(net) == sum(p.numel() for p in net.parameters())


def test_adapters_begin_alike_and_do_not_touch_the_random_numbers_of_others():
    net = MLP(2, hidden=8)
    before = torch.random.get_rng_state()
    a, b = LoRA(net), LoRA(net)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


def test_named_targets_alone_are_adapted_and_names_are_taken_whole():
    net = MLP(2, hidden=8, depth=2, residual=True, time_features=8)
    adapted = LoRA(net, targets=("first",))
    names = [n for n, _ in adapted.named_parameters() if "lora_A" in n]
    assert names == ["net.first.lora_A.default.weight"]


def test_a_field_in_float64_keeps_its_dtype():
    field = Field(LoRA(MLP(2, hidden=8)).double(), shape=(2,))
    assert field.dtype == torch.float64
    assert field(torch.randn(3, 2, dtype=torch.float64), 0.5).dtype == torch.float64


def test_bad_options_are_refused():
    with pytest.raises(OptionError, match="rank is at least 1"):
        LoRA(MLP(2), 0)
    with pytest.raises(OptionError, match="alpha positive"):
        LoRA(MLP(2), 2, alpha=0.0)
    with pytest.raises(OptionError, match="'second' is none; there are: first"):
        LoRA(MLP(2), targets=("second",))
    with pytest.raises(OptionError, match="no linear or convolutional layer"):
        LoRA(torch.nn.Identity())


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rheos\[lora\]'"):
        LoRA(MLP(2))
