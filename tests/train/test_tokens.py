"""Captions as tokens of a flow from noise."""

import json

import pytest
import torch

from rheos.core import Draws, Field, FlowMatching
from rheos.core import config as plain
from rheos.core.errors import ConditionError, OptionError
from rheos.data import About, Data, Letters, load
from rheos.nets import DiT
from rheos.sample import draw
from rheos.train import Options, TokenCondition, fit
from rheos.train.suggestions import network_for

EXTRA = TokenCondition.extra()


def alive(masked=False, **more):
    """A small network whose output depends on everything (a fresh one gives zero)."""
    torch.manual_seed(0)
    inner = DiT(1, 4, patch=2, dim=16, depth=1, heads=2, tokens=6, token_dim=27 + EXTRA, **more)
    net = TokenCondition(inner, masked=masked)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=0.3)
    return net.eval()


def at(net, texts, **more):
    n = len(texts)
    x = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4).expand(n, -1, -1, -1)
    return net(x, torch.full((n,), 0.5), embedding=Letters(6)(texts), **more)


def test_letters_keep_their_order():
    out = at(alive(), ["lamp", "palm", "lamp"])
    assert torch.equal(out[0], out[2])
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_null_is_the_text_without_letters_and_no_other():
    net = alive()
    null = net(torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4), torch.tensor([0.5]), embedding=net.null("embedding", 1))
    out = at(net, ["", "a"])
    torch.testing.assert_close(out[:1], null)  # a batch of another size rounds otherwise
    assert (out[1:] - null).abs().max() > 1e-3


def test_what_a_mask_hides_changes_nothing():
    net = alive(masked=True)
    e, mask = torch.randn(2, 6, 27), torch.tensor([[True] * 2 + [False] * 4, [True] * 6])
    x, t = torch.randn(2, 1, 4, 4), torch.rand(2)
    other = torch.where(mask[..., None], e, torch.randn_like(e))
    assert torch.equal(net(x, t, embedding=e, embedding_mask=mask), net(x, t, embedding=other, embedding_mask=mask))
    bare = net(x, t, embedding=e, embedding_mask=net.null("embedding_mask", 2))
    assert torch.equal(bare, net(x, t, embedding=net.null("embedding", 2), embedding_mask=torch.zeros_like(mask)))


def test_rows_are_dropped_with_their_mask_as_often_as_asked_for_and_guidance_finds_the_same_null():
    n, field = 4000, Field(alive(masked=True))
    e, mask = torch.ones(n, 6, 27), torch.ones(n, 6, dtype=torch.bool)
    plan = FlowMatching(dropout=0.25).prepare(
        field, torch.zeros(n, 1, 4, 4), {"embedding": e, "embedding_mask": mask}, Draws.training(0, 0, n)
    )
    gone = (plan.cond["embedding"] == 0).all((1, 2))
    assert torch.equal(gone, ~plan.cond["embedding_mask"].any(1))
    assert torch.equal(~gone, (plan.cond["embedding"] == 1).all((1, 2)) & plan.cond["embedding_mask"].all(1))
    assert abs(gone.double().mean() - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5


def test_a_guided_velocity_is_the_null_one_and_twice_the_difference():
    field = Field(alive(), gaussian=True)
    field.shape = (1, 4, 4)
    words = Letters(6)(["apple", "mug"])
    start = torch.randn(2, 1, 4, 4)
    told = {"steps": 1, "solver": "euler", "source": start}
    with_, without = draw(field, 2, embedding=words, **told), draw(field, 2, **told)
    guided = draw(field, 2, embedding=words, guidance=2.0, **told)
    torch.testing.assert_close(guided, without + 2 * (with_ - without), atol=1e-5, rtol=1e-5)


def test_labels_beside_tokens_and_a_file_bring_back_the_same_network():
    net = alive(classes=3)
    again = plain.load(json.loads(json.dumps(plain.dump(net))))
    again.load_state_dict(net.state_dict())
    label = torch.tensor([0, 2])
    assert again.conditions == {"embedding", "label"}
    assert again.attentions == ("blocks.0.self", "blocks.0.cross")
    assert torch.equal(at(again.eval(), ["ab", "c"], label=label), at(net, ["ab", "c"], label=label))
    assert torch.equal(again.null("label", 2), torch.tensor([3, 3]))


def test_what_the_network_cannot_take_is_said():
    net = alive(masked=True)
    x, t = torch.zeros(2, 1, 4, 4), torch.rand(2)
    e, mask = torch.zeros(2, 6, 27), torch.ones(2, 6, dtype=torch.bool)
    for cond, text in (
        ({"embedding": e}, "embedding_mask is missing"),
        ({"embedding": e, "embedding_mask": mask, "tokens": e}, "Unknown condition 'tokens'"),
        ({"embedding": e[:, :5], "embedding_mask": mask}, r"embedding must be float of shape \(2, 6, 27\)"),
        ({"embedding": e, "embedding_mask": mask.long()}, "embedding_mask must be bool"),
    ):
        with pytest.raises(ConditionError, match=text):
            net(x, t, **cond)
    with pytest.raises(ConditionError, match="Unknown condition 'tokens'"):
        net.null("tokens", 1)
    with pytest.raises(OptionError, match="takes tokens of more than 17 numbers"):
        TokenCondition(DiT(1, 4, dim=16, depth=1, tokens=6, token_dim=17))
    with pytest.raises(OptionError, match="as a vector already"):
        TokenCondition(DiT(1, 4, dim=16, depth=1, tokens=6, token_dim=44, embedding=3))


def test_a_flow_learns_what_letters_in_order_say():
    words = ["ab", "ba"]
    x = torch.cat((torch.ones(64, 1, 4, 4), -torch.ones(64, 1, 4, 4)))
    data = load({"x": x, "caption": [words[0]] * 64 + [words[1]] * 64}, range=(-1, 1), embed="letters:2")
    torch.manual_seed(0)
    net = network_for(data)
    small = TokenCondition(DiT(**{**net.net.config, "dim": 32, "depth": 1, "patch": 4}))
    options = Options(batch=64, lr=1e-2, ema=0.0, sample_every=0)
    run = fit(Field(small), FlowMatching(), data, steps=200, options=options, progress=False)
    drawn = draw(run.field, 8, steps=8, embedding=Letters(2)(words * 4)).mean((1, 2, 3))
    assert (drawn[::2] > 0.5).all()
    assert (drawn[1::2] < -0.5).all()


def test_a_wrapped_network_with_too_few_classes_is_refused():
    about = About(class_names=tuple("abcd"))
    columns = {"label": torch.arange(4), "embedding": torch.zeros(4, 6, 27)}
    data = Data(torch.zeros(4, 1, 4, 4), columns, about, conditions=("label", "embedding"))
    assert Field(alive(classes=4)).label_count == 4
    with pytest.raises(ConditionError, match="built for 3 classes, the data have 4"):
        fit(Field(alive(classes=3)), FlowMatching(), data, steps=1, options=Options(batch=4), progress=False)


def test_what_stands_where_no_token_is_may_be_anything():
    net, mask = alive(masked=True), torch.tensor([[True, True, False, False, False, False]])
    x, t, words = torch.zeros(1, 1, 4, 4), torch.full((1,), 0.5), Letters(6)(["at"])
    odd = torch.where(mask[..., None], words, torch.full_like(words, torch.nan))
    assert torch.equal(net(x, t, embedding=odd, embedding_mask=mask), net(x, t, embedding=words, embedding_mask=mask))
