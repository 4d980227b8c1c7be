import pytest
import torch

from rheos.core import MSE, Adaptive
from rheos.core.base import Context
from rheos.core.errors import OptionError
from strategies import randn

X, Y = randn(3, 5), randn(3, 5, seed=1)
CONTEXT = Context(X, torch.zeros(3))


def test_the_value_is_the_squared_norm_over_a_power_of_itself():
    e = (X - Y).square().sum(1)
    torch.testing.assert_close(Adaptive(0.75, 0.5)(X, Y, CONTEXT), e / (e + 0.5) ** 0.75)
    torch.testing.assert_close(Adaptive(0.0)(X, Y, CONTEXT), 5 * MSE()(X, Y, CONTEXT))


def test_with_power_one_the_gradient_is_that_of_the_logarithm():
    a, b = X.clone().requires_grad_(True), X.clone().requires_grad_(True)
    Adaptive(1.0, 0.5)(a, Y, CONTEXT).sum().backward()
    ((b - Y).square().sum(1) + 0.5).log().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_parts_of_a_state_are_summed_over_all_elements():
    state, other = {"a": X, "b": X[:, :2]}, {"a": Y, "b": Y[:, :2]}
    e = (X - Y).square().sum(1) + (X - Y)[:, :2].square().sum(1)
    torch.testing.assert_close(Adaptive(0.5, 1.0)(state, other, CONTEXT), e / (e + 1.0) ** 0.5)


def test_values_out_of_range_are_refused():
    with pytest.raises(OptionError, match=r"power must lie in \[0, 1\], got 2"):
        Adaptive(2.0)
    with pytest.raises(OptionError, match="c must be positive and finite, got 0"):
        Adaptive(c=0.0)
