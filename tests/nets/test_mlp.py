import pytest
import torch

from rheos.core.errors import OptionError, ShapeError, UnknownOptionError
from rheos.nets import MLP, parameters


def test_without_hidden_bends_it_is_affine_in_state_and_time():
    net = MLP(2, hidden=8, depth=2, activation="relu").double()
    with torch.no_grad():
        for layer in [net.first, *(m for m in net.last if isinstance(m, torch.nn.Linear))]:
            layer.bias.fill_(1e3)  # every unit stays on the same side
    x, y = torch.randn(2, 5, 2, dtype=torch.float64)
    s, t = torch.rand(2, 5, dtype=torch.float64)
    torch.testing.assert_close(net((x + y) / 2, (s + t) / 2), (net(x, s) + net(y, t)) / 2)


def test_pictures_are_flattened_and_come_back_in_their_shape():
    net = MLP(12, hidden=8)
    x, t = torch.randn(4, 3, 2, 2), torch.rand(4)
    assert torch.equal(net(x, t), net(x.flatten(1), t).reshape(4, 3, 2, 2))


def test_residual_blocks_start_as_the_identity():
    shallow, deep = MLP(2, hidden=8, depth=1, residual=True), MLP(2, hidden=8, depth=4, residual=True)
    deep.first.load_state_dict(shallow.first.state_dict())
    deep.last.load_state_dict(shallow.last.state_dict())
    x, t = torch.randn(5, 2), torch.rand(5)
    assert torch.equal(shallow(x, t), deep(x, t))


def test_the_number_of_parameters_is_that_of_its_layers():
    assert parameters(MLP(2, hidden=64, depth=3)) == 3 * 64 + 64 + 2 * (64 * 64 + 64) + 64 * 2 + 2


def test_another_number_of_inputs_is_refused_with_the_right_one():
    with pytest.raises(ShapeError, match=r"samples of 2 numbers, got \(3, 4\)\. Build it with dim=12"):
        MLP(2)(torch.zeros(5, 3, 4), torch.zeros(5))


def test_impossible_options_are_refused():
    with pytest.raises(UnknownOptionError, match="activation 'sellu' is unknown; did you mean 'selu'"):
        MLP(2, activation="sellu")
    with pytest.raises(OptionError, match="at least 1, got 2, 64 and 0"):
        MLP(2, depth=0)
    with pytest.raises(OptionError, match=r"must be even .*got 3"):
        MLP(2, time_features=3)


def test_autocast_does_not_round_the_time():
    net = MLP(2, hidden=8, depth=1)
    x = torch.zeros(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = (net._enter(x, torch.tensor([t]), None) for t in (0.5, 0.501))
    slope = net.first.weight[:, -1]
    torch.testing.assert_close(b - a, 0.001 * slope[None], rtol=1e-2, atol=1e-7)
