"""The derivative along a flow, by forward mode, by differences and by autograd; gradients put in by hand."""

import pytest
import torch
from torch import nn

from rheos.core import Derivative, inject_gradient, material_derivative
from rheos.core.errors import OptionError, TimeError, UnknownOptionError
from rheos.core.state import expand
from strategies import randn


def f(x, t):
    """sin(x) t^2 and a mixing term."""
    return x.sin() * expand(t, x).square() + x.roll(1, 1) * expand(t, x)


X, V = randn(4, 3), randn(4, 3, seed=1)
T = torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=torch.float64)


def exact():
    t = T[:, None]
    return X.cos() * V * t.square() + V.roll(1, 1) * t + 2 * X.sin() * t + X.roll(1, 1)


def test_forward_mode_is_the_derivative():
    torch.testing.assert_close(material_derivative(f, X, T, V), exact(), rtol=1e-12, atol=1e-12)


def test_autograd_along_the_line_agrees():
    h = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    out = f(X + h[:, None] * V, T + h)
    columns = [torch.autograd.grad(out[:, j].sum(), h, retain_graph=True)[0] for j in range(3)]
    torch.testing.assert_close(torch.stack(columns, 1), material_derivative(f, X, T, V), rtol=1e-12, atol=1e-12)


def test_a_finite_difference_is_first_order():
    errors = [float((material_derivative(f, X, T, V, d) - exact()).abs().max()) for d in (0.02, 0.01, 0.005)]
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert 1.8 < errors[1] / errors[2] < 2.2


def test_a_known_value_saves_a_call_and_changes_nothing():
    calls = []

    def counted(x, t):
        calls.append(1)
        return f(x, t)

    known = material_derivative(counted, X, T, V, 0.01, value=f(X, T))
    assert len(calls) == 1
    assert torch.equal(known, material_derivative(f, X, T, V, 0.01))


def test_a_step_is_shortened_at_ends_of_its_own_and_refused_beyond_a_common_one():
    end = T + torch.tensor([1e-3, 1.0, 0.0, 0.2], dtype=torch.float64)
    found = material_derivative(f, X, T, V, 0.1, end=end.clamp(max=1.0))
    torch.testing.assert_close(found[0], material_derivative(f, X, T, V, 1e-3)[0], rtol=1e-9, atol=1e-9)
    assert not bool(found[2].any())
    with pytest.raises(TimeError, match=r"A finite difference of 0\.4 steps beyond 1 from t = 0\.7"):
        material_derivative(f, X, T, V, 0.4)


def test_normalisation_divides_by_the_norm_of_the_row():
    plain = Derivative()(f, X, T, V)
    norm = plain.norm(dim=1, keepdim=True) + 0.1
    torch.testing.assert_close(Derivative(normalize="unit")(f, X, T, V), plain / norm)
    torch.testing.assert_close(Derivative(normalize="rms")(f, X, T, V), plain / norm * 3**0.5)


def test_no_graph_is_kept():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    for how in (Derivative(), Derivative("fd")):
        assert not how(lambda x, t: weight * f(x, t), X, T, V).requires_grad


class Fused(nn.Module):
    def forward(self, x, t):
        q = (x[..., None] * torch.ones(8, dtype=x.dtype))[:, None]
        return nn.functional.scaled_dot_product_attention(q, q, q)[:, 0, :, 0] * t[:, None]


def test_fused_attention_under_forward_mode_is_explained_and_the_written_out_one_works():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    x, t = X.float(), T.float()
    with pytest.raises(OptionError, match=r"target='split'.*SDPBackend.MATH"):
        material_derivative(Fused(), x, t, V.float())
    with sdpa_kernel(SDPBackend.MATH):
        exactly = material_derivative(Fused(), x, t, V.float())
    nearly = material_derivative(Fused(), x, t, V.float(), 1e-3)  # plain calls need no derivative
    torch.testing.assert_close(nearly, exactly, rtol=0.02, atol=0.02)


def test_short_types_cancel_and_are_refused():
    with pytest.raises(OptionError, match="cancels in bfloat16"):
        material_derivative(f, X.bfloat16(), T, V, 0.01)
    with pytest.raises(OptionError, match=r"delta=0\.0005 cancels in float16"):
        material_derivative(f, X.half(), T, V, 5e-4)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(OptionError, match="cancels in bfloat16"):
        material_derivative(f, X.float(), T, V, 0.01)


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match=r"delta must lie in \(0, 1\), got 0"):
        Derivative("fd", 0.0)
    with pytest.raises(UnknownOptionError, match="mode 'jpv' is unknown"):
        Derivative("jpv")
    with pytest.raises(UnknownOptionError, match="normalize 'l2' is unknown"):
        Derivative(normalize="l2")


def test_an_injected_gradient_is_the_gradient_of_a_mean_square():
    x, g = X.clone().requires_grad_(True), V.clone().requires_grad_(True)
    rows = inject_gradient(x, g)
    torch.testing.assert_close(rows, V.square().mean(1))
    rows.sum().backward()
    torch.testing.assert_close(x.grad, 2 * V / 3)
    assert g.grad is None
