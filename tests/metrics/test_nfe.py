import pytest
import torch
from torch import nn

from rheos.core.errors import OptionError
from rheos.metrics import Nfe


class Twice(nn.Module):
    """A field that calls its net twice, as guidance does."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, **cond):
        return self.net(x) + self.net(torch.cat((x, x)))[: len(x)]


def test_calls_and_rows_of_an_inner_net_are_counted_wherever_they_come_from():
    net = nn.Linear(2, 2)
    field, x = Twice(net), torch.zeros(5, 2)
    with Nfe(net) as inner, Nfe(field) as outer:
        for _ in range(4):
            field(x, 0.5)
    assert (inner.calls, inner.rows, inner.per_row(5)) == (8, 60, 12.0)
    assert (outer.calls, outer.rows) == (4, 20)
    assert repr(outer) == "Nfe(calls=4, rows=20)"


def test_nothing_is_counted_or_left_behind_after_the_block_even_after_an_error():
    net = nn.Linear(2, 2)
    nfe = Nfe(net)
    with pytest.raises(RuntimeError), nfe:
        net(torch.zeros(1, 3))
    net(torch.zeros(1, 2))
    assert nfe.calls == 1
    assert not net._forward_pre_hooks
    with nfe:
        net(torch.zeros(1, 2))
    assert nfe.calls == 2


def test_outputs_and_gradients_are_those_of_the_net():
    net, x = nn.Linear(2, 2), torch.ones(3, 2, requires_grad=True)
    with Nfe(net):
        counted = net(x)
    assert torch.equal(counted, net(x))
    assert torch.equal(Nfe(net)(x), net(x))
    assert counted.requires_grad


def test_any_function_can_be_counted_by_keyword_by_dict_and_without_tensors():
    nfe = Nfe(lambda *args, **kwargs: args)
    nfe(0.5, torch.zeros(3, 2), torch.zeros(9))
    assert (nfe.calls, nfe.rows) == (1, 3)
    nfe(t=torch.tensor(0.5), x=torch.zeros(4, 2))
    assert (nfe.calls, nfe.rows) == (2, 7)
    nfe({"picture": torch.zeros(2, 1), "mask": torch.zeros(2, 1)}, 0.5)
    assert (nfe.calls, nfe.rows) == (3, 9)
    nfe()
    assert (nfe.calls, nfe.rows) == (4, 10)
    nfe.reset()
    assert (nfe.calls, nfe.rows) == (0, 0)


def test_a_module_called_through_the_counter_inside_its_block_is_counted_once():
    net = nn.Linear(2, 2)
    with Nfe(net) as nfe:
        nfe(torch.zeros(3, 2))
    assert (nfe.calls, nfe.rows) == (1, 3)


def test_what_cannot_be_counted_is_refused_with_the_way_out():
    with pytest.raises(OptionError, match=r"got function\. Put Nfe\(f\) in place"), Nfe(lambda x: x):
        pass
