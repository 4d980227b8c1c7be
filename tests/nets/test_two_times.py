"""A second time for a network with one: nothing at first, then whatever is learned."""

import copy
import json

import pytest
import torch
from torch import nn

from rheos.core.config import dump, load
from rheos.core.errors import ConditionError, OptionError
from rheos.nets import EDM, MLP, DiT, TwoTimeAdapter, UNet

CASES = {
    "mlp": (lambda: MLP(3, hidden=8, time_features=6, classes=4), (3,)),
    "residual mlp": (lambda: MLP(3, hidden=8, depth=2, residual=True, time_features=6), (3,)),
    "unet": (lambda: UNet(2, width=8, multipliers=(1, 2), attention=(-1,), heads=2, classes=4), (2, 4, 4)),
    "dit": (lambda: DiT(2, (4, 8), dim=16, depth=2, heads=2, classes=4), (2, 4, 8)),
    "edm": (lambda: EDM(MLP(3, hidden=8, time_features=6), "linear"), (3,)),
}


def awake(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5)
    return net.eval().requires_grad_(False)


@pytest.fixture(params=list(CASES))
def case(request):
    make, shape = CASES[request.param]
    g = torch.Generator().manual_seed(1)
    net = awake(make())
    cond = {"label": torch.randint(4, (5,), generator=g)} if net.conditions else {}
    return net, torch.randn(5, *shape, generator=g), torch.rand(5, generator=g), cond


def test_the_adapted_network_begins_as_the_given_one_for_every_end(case):
    net, x, s, cond = case
    base, adapted = copy.deepcopy(net), TwoTimeAdapter(net)
    for t in (s, torch.ones(5), torch.full((5,), 0.5)):
        assert torch.equal(adapted(x, s, t, **cond), base(x, s, **cond))
    assert torch.equal(net(x, s, **cond), base(x, s, **cond))


def test_an_awake_adapter_hears_the_length_and_only_that(case):
    net, x, s, cond = case
    adapted = TwoTimeAdapter(net)
    awake(adapted.length, 3)
    a, b = adapted(x, s, s, **cond), adapted(x, s, s + 0.3, **cond)
    assert float((a - b).abs().max()) > 1e-3
    order = torch.tensor([3, 0, 4, 2, 1])
    again = adapted(x[order], s[order], (s + 0.3)[order], **{n: v[order] for n, v in cond.items()})
    torch.testing.assert_close(again, b[order], rtol=1e-5, atol=1e-5)
    assert torch.equal(net(x, s, **cond), copy.deepcopy(net)(x, s, **cond))  # the network alone hears nothing


def test_copies_and_descriptions_are_adapters_of_their_own(case):
    net, x, s, cond = case
    adapted = TwoTimeAdapter(net)
    awake(adapted.length, 3)
    other = copy.deepcopy(adapted)
    assert torch.equal(other(x, s, s + 0.3, **cond), adapted(x, s, s + 0.3, **cond))
    awake(other.length, 4)
    assert not torch.equal(other(x, s, s + 0.3, **cond), adapted(x, s, s + 0.3, **cond))
    made = load(json.loads(json.dumps(dump(adapted))))
    made.load_state_dict(adapted.state_dict())
    torch.testing.assert_close(made.eval()(x, s, s + 0.3, **cond), adapted(x, s, s + 0.3, **cond))


def test_forward_mode_goes_through_the_length():
    adapted = TwoTimeAdapter(awake(MLP(3, hidden=8, time_features=6)).double())
    awake(adapted.length, 3).double()
    x, s, t = torch.randn(4, 3).double(), torch.rand(4).double() / 2, torch.ones(4).double()
    slope = torch.func.jvp(lambda c: adapted(x, c, t), (s,), (torch.ones_like(s),))[1]
    h = 1e-6
    with torch.no_grad():
        near = (adapted(x, s + h, t) - adapted(x, s - h, t)) / (2 * h)
    torch.testing.assert_close(slope.detach(), near, rtol=1e-5, atol=1e-5)


def test_it_compiles_into_one_graph(case, compiling):
    net, x, s, cond = case
    adapted = TwoTimeAdapter(net)
    awake(adapted.length, 3)
    expected = adapted(x, s, s + 0.3, **cond)
    torch.testing.assert_close(compiling(adapted)(x, s, s + 0.3, **cond), expected, rtol=1e-5, atol=1e-5)


class Foreign(nn.Module):
    """A network of another library: its time embedding has a name of its own."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Sequential(nn.Linear(1, 4), nn.SiLU(), nn.Linear(4, 4))
        self.out = nn.Linear(4 + 2, 2)

    def forward(self, x, t):
        return self.out(torch.cat((x, self.emb(t[:, None])), 1))


def test_any_network_is_adapted_at_a_named_module():
    net = Foreign()
    adapted = TwoTimeAdapter(net, at="emb", features=8)
    x, s = torch.randn(3, 2), torch.rand(3)
    assert torch.equal(adapted(x, s, torch.ones(3)), net(x, s))
    with pytest.raises(OptionError, match=r"'emb' takes 1 numbers.*Give features=64"):
        TwoTimeAdapter(Foreign(), at="emb")
    with pytest.raises(OptionError, match="no null value for 'label'"):
        adapted.null("label", 2)


def test_places_that_embed_nothing_are_refused():
    with pytest.raises(OptionError, match="Build an MLP with time_features=64"):
        TwoTimeAdapter(MLP(2))
    with pytest.raises(OptionError, match=r"has no submodule 'time'\. Its parts: emb, out"):
        TwoTimeAdapter(Foreign(), at="time")
    with pytest.raises(OptionError, match=r"'emb\.1' has no linear layer"):
        TwoTimeAdapter(Foreign(), at="emb.1")


def test_conditions_and_null_are_the_networks():
    adapted = TwoTimeAdapter(MLP(2, time_features=4, classes=3))
    assert adapted.conditions == {"label"}
    assert adapted.null("label", 2).tolist() == [3, 3]
    with pytest.raises(ConditionError, match="label is missing"):
        adapted(torch.zeros(1, 2), torch.zeros(1), torch.ones(1))


class Stacked(nn.Module):
    """A network that embeds the time in every block, and says so."""

    embeds_time = "blocks.*.emb"
    exact_times = True
    kept = frozenset({"size"})

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"emb": nn.Linear(4, 2), "out": nn.Linear(2, 2)}) for _ in range(3))

    def forward(self, x, t):
        for block in self.blocks:
            x = block["out"](x + block["emb"](t[:, None].expand(-1, 4).to(x.dtype)))
        return x


def test_a_network_that_embeds_the_time_in_every_block_hears_the_length_in_every_one():
    net = Stacked()
    adapted = TwoTimeAdapter(net)
    assert (adapted.at, adapted.kept, adapted.exact_times) == ("blocks.*.emb", {"size"}, True)
    x, s, t = torch.randn(3, 2), torch.rand(3), torch.ones(3)
    assert torch.equal(adapted(x, s, t), net(x, s))
    with torch.no_grad():
        adapted.length.bias.copy_(torch.tensor([1.0, -2.0]))  # its weight is zero: every block adds this
        expected = x
        for block in net.blocks:
            embedded = block["emb"](s[:, None].expand(-1, 4)) + torch.tensor([1.0, -2.0])
            expected = block["out"](expected + embedded)
        torch.testing.assert_close(adapted(x, s, t), expected)
