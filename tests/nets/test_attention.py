import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from rheos.core.errors import ShapeError
from rheos.nets import attend, written_out
from rheos.nets.attention import heads_first, heads_last


def qkv(rows=2, heads=2, queries=5, keys=4, width=3, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    shapes = ((queries, width), (keys, width), (keys, width))
    return tuple(torch.randn(rows, heads, *s, generator=g, dtype=torch.float64).to(dtype) for s in shapes)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
def test_attention_is_the_mean_of_the_values_under_softmax_weights(rows, heads, queries, keys, width):
    q, k, v = qkv(rows, heads, queries, keys, width)
    weights = torch.einsum("bhld,bhmd->bhlm", q, k).div(width**0.5).exp()
    mean = torch.einsum("bhlm,bhmd->bhld", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(attend(q, k, v), mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(written_out(q, k, v), mean, rtol=0, atol=1e-12)


def test_equal_keys_give_the_plain_mean_of_the_values():
    q, k, v = qkv()
    torch.testing.assert_close(attend(q, k[:, :, :1].expand_as(k), v), v.mean(2, keepdim=True).expand_as(q))


@pytest.mark.parametrize("form", [attend, written_out])
def test_a_masked_key_is_as_good_as_absent(form):
    q, k, v = qkv()
    mask = torch.tensor([True, False, True, True])
    kept = attend(q, k[:, :, mask], v[:, :, mask])
    torch.testing.assert_close(form(q, k, v, mask=mask[None]), kept)
    added = torch.zeros(1, 4, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(form(q, k, v, mask=added), kept)


def test_the_first_tap_is_the_outermost():
    q, k, v = qkv()
    order = []

    def tap(label, factor, shift):
        def run(name, q, k, v, inner):
            order.append((label, name))
            return factor * inner(q, k, v) + shift

        return run

    out = attend(q, k, v, taps=(tap("outer", 2.0, 1.0), tap("inner", 3.0, 5.0)), name="here")
    assert order == [("outer", "here"), ("inner", "here")]
    torch.testing.assert_close(out, 2.0 * (3.0 * attend(q, k, v) + 5.0) + 1.0)


def test_a_tap_may_replace_the_attention_and_leaves_no_trace():
    q, k, v = qkv()
    before = attend(q, k, v)
    assert torch.equal(attend(q, k, v, taps=(lambda name, q, k, v, inner: q,)), q)
    assert torch.equal(attend(q, k, v), before)


def test_a_tap_sees_the_mask_through_its_inner_attention():
    q, k, v = qkv()
    mask = torch.tensor([[True, False, True, True]])
    through = attend(q, k, v, mask=mask, taps=(lambda name, q, k, v, inner: inner(q, k, v),))
    assert torch.equal(through, attend(q, k, v, mask=mask))


def test_a_tap_that_changes_the_shape_is_named():
    q, k, v = qkv()
    with pytest.raises(ShapeError, match=r"A tap on attention 'down\.1\.0' returned \(2, 2, 1, 3\) for queries"):
        attend(q, k, v, taps=(lambda name, q, k, v, inner: inner(q, k, v)[:, :, :1],), name="down.1.0")


def test_a_tap_that_adds_keys_under_a_mask_is_refused():
    q, k, v = qkv()
    mask = torch.ones(5, 4, dtype=torch.bool)

    def doubled(name, q, k, v, inner):
        return inner(q, torch.cat((k, k), 2), torch.cat((v, v), 2))

    with pytest.raises(ShapeError, match=r"made for 4 keys, but there are 8.*replace a masked attention"):
        attend(q, k, v, mask=mask, taps=(doubled,))


def test_the_tangent_is_that_of_the_mathematical_backend():
    tensors, tangents = qkv(dtype=torch.float32), qkv(seed=1, dtype=torch.float32)
    out, slope = torch.func.jvp(attend, tensors, tangents)
    with sdpa_kernel(SDPBackend.MATH):
        out_math, slope_math = torch.func.jvp(scaled_dot_product_attention, tensors, tangents)
    torch.testing.assert_close(out, out_math)
    torch.testing.assert_close(slope, slope_math)


def test_every_mode_of_differentiation_passes_through():
    q, k, v = qkv(1, 1, 2, 3, 2)
    energy = lambda q: attend(q, k, v).square().sum()
    plain = lambda q: written_out(q, k, v).square().sum()
    for mode in (torch.func.hessian, torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(mode(energy)(q), mode(plain)(q), rtol=0, atol=1e-12)
    twice = torch.func.grad(lambda q: torch.func.grad(energy)(q).square().sum())(q)
    torch.testing.assert_close(
        twice, torch.func.grad(lambda q: torch.func.grad(plain)(q).square().sum())(q), rtol=0, atol=1e-12
    )
    inside_out = torch.func.grad(lambda q: torch.func.jvp(energy, (q,), (torch.ones_like(q),))[1])(q)
    hessian = torch.func.hessian(energy)(q).reshape(4, 4)
    torch.testing.assert_close(inside_out.flatten(), hessian.sum(1), rtol=0, atol=1e-12)


def test_the_written_out_tap_allows_second_derivatives_of_ordinary_autograd():
    q, k, v = qkv(1, 1, 2, 3, 2)
    q.requires_grad_()
    out = attend(q, k, v, taps=(lambda name, q, k, v, inner: written_out(q, k, v),))
    (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), q)
    hessian = torch.func.hessian(lambda q: written_out(q, k, v).square().sum())(q.detach())
    torch.testing.assert_close(second.flatten(), hessian.reshape(4, 4).sum(0), rtol=0, atol=1e-12)


def test_splitting_into_heads_and_back_is_the_identity():
    x = torch.randn(2, 5, 12)
    assert torch.equal(heads_last(*heads_first(x, 3, 1)), x)
    q, k, v = heads_first(torch.cat((x, 2 * x, 3 * x), 2), 3, 3)
    assert torch.equal(heads_last(k), 2 * x)
    assert q.shape == v.shape == (2, 3, 5, 4)
