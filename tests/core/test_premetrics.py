import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rheos.core.base import Context
from rheos.core.errors import OptionError, ShapeError, TimeError, UnknownOptionError
from rheos.core.premetrics import L1, MSE, RMSE, Huber, Perceptual, PseudoHuber, Timed, Total, premetric

few = settings(max_examples=20, deadline=None, derandomize=True)
POOL = nn.AdaptiveAvgPool1d(2)
LOOK = Perceptual(lambda x: [x * 2, POOL(x.flatten(1))])
ALL = [
    MSE(), L1(), RMSE(), Huber(0.7), PseudoHuber(0.3), PseudoHuber(0.3, per_element=True), LOOK,
    Timed(MSE(), data=-0.5, noise=2.0), Total((MSE(), Timed(LOOK, noise=1.5))),
]  # fmt: skip
named = pytest.mark.parametrize("law", ALL, ids=lambda m: type(m).__name__)


def pair(b, *shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(b, *shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))


def measure(law, x, y):
    first = x if isinstance(x, torch.Tensor) else next(iter(x.values()))
    return law(x, y, Context(x, torch.full((len(first),), 0.25, dtype=torch.float64), x, y))


@named
@few
@given(b=st.integers(1, 5), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_premetric_is_zero_on_equal_rows_positive_on_others_and_knows_no_neighbours(law, b, seed, dtype):
    x, y = pair(b, 3, 4, seed=seed, dtype=dtype)
    assert not measure(law, x, x).any()
    whole = measure(law, x, y)
    assert whole.shape == (b,)
    assert whole.dtype == dtype
    assert bool((whole > 0).all())
    assert torch.allclose(torch.cat([measure(law, x[i : i + 1], y[i : i + 1]) for i in range(b)]), whole, rtol=1e-6)
    assert torch.allclose(measure(law, y, x), whole, rtol=1e-6)


@named
def test_its_gradient_is_that_of_finite_differences_and_vanishes_at_the_target(law):
    x, y = pair(2, 2, 3)
    assert torch.autograd.gradcheck(lambda z: measure(law, z, y), x.clone().requires_grad_())
    z = x.clone().requires_grad_()
    measure(law, z, x).sum().backward()
    assert not z.grad.any()


def test_the_mean_square_averages_over_all_elements_of_a_row():
    x, y = pair(3, 4, 5)
    assert torch.allclose(measure(MSE(), x, y), (x - y).square().sum((1, 2)) / 20)
    assert torch.allclose(measure(L1(), x, y), (x - y).abs().sum((1, 2)) / 20)
    assert torch.equal(measure(MSE(), torch.tensor([3.0, 1.0]), torch.zeros(2)), torch.tensor([9.0, 1.0]))


@few
@given(d=st.floats(-5, 5), delta=st.floats(0.1, 3))
def test_huber_is_a_parabola_inside_delta_and_a_line_outside(d, delta):
    want = d * d / 2 if abs(d) <= delta else delta * (abs(d) - delta / 2)
    x = torch.full((1, 3), d, dtype=torch.float64)
    assert float(measure(Huber(delta), x, torch.zeros_like(x))) == pytest.approx(want, abs=1e-12)


@few
@given(n=st.integers(1, 50), size=st.floats(1e-6, 1e3), c=st.floats(0.01, 10))
def test_pseudo_huber_has_its_formula_of_the_whole_rows_norm(n, size, c):
    x = torch.full((1, n), size, dtype=torch.float64)
    norm2 = n * size * size
    assert float(measure(PseudoHuber(c), x, torch.zeros_like(x))) == pytest.approx(
        math.sqrt(norm2 + c * c) - c, abs=1e-9
    )


def test_pseudo_huber_is_square_for_small_rows_even_in_float32_and_linear_for_large_ones():
    law, x = PseudoHuber(1.0), torch.full((1, 4), 1e-5)
    assert float(measure(law, x, torch.zeros(1, 4))) == pytest.approx(4e-10 / 2, rel=1e-5)
    assert float(measure(law, x * 1e9, torch.zeros(1, 4))) == pytest.approx(2e4 - 1, rel=1e-5)


@few
@given(n=st.integers(1, 50), size=st.floats(1e-6, 1e3), c=st.floats(0.001, 1))
def test_pseudo_huber_per_element_has_a_constant_of_n_times_c_and_is_divided_by_n(n, size, c):
    x = torch.full((1, n), size, dtype=torch.float64)
    want = (math.sqrt(n * size * size + (c * n) ** 2) - c * n) / n
    found = float(measure(PseudoHuber(c, per_element=True), x, torch.zeros_like(x)))
    assert found == pytest.approx(want, abs=1e-9)


def test_the_root_mean_square_is_the_root_of_the_mean_square_and_its_slope_does_not_shrink():
    x, y = pair(3, 4, 5)
    assert torch.allclose(measure(RMSE(), x, y), measure(MSE(), x, y).sqrt())
    for size in (1e-9, 1.0):
        z = (y + size * (x - y)).requires_grad_()
        measure(RMSE(), z, y).sum().backward()
        assert torch.allclose(z.grad.flatten(1).norm(dim=1), torch.full((3,), 20**-0.5, dtype=torch.float64))


def test_a_timed_premetric_has_powers_of_t_and_of_one_minus_t_as_factor():
    x, y = pair(2, 3)
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    found = Timed(MSE(), data=2.0, noise=-1.0)(x, y, Context(x, t))
    assert torch.allclose(found, MSE()(x, y, Context(x, t)) * t**2 / (1 - t))
    assert Timed(LOOK).on == "data"
    assert Timed(Total((LOOK,))).on == "both"


def test_a_factor_that_is_infinite_at_a_time_is_refused():
    x, y = pair(2, 3)
    for law, t in ((Timed(MSE(), noise=-1.0), 1.0), (Timed(MSE(), data=-1.0), 0.0)):
        with pytest.raises(TimeError, match=r"is infinite at an end of \[0, 1\].*UShape\(clip=1e-5\)"):
            law(x, y, Context(x, torch.tensor([0.5, t])))
        assert law(x, y, Context(x, torch.tensor([0.5, 1 - t]))).isfinite().all()
    with pytest.raises(TimeError, match="one time a row"):
        Timed(MSE())(x, y, Context(x, {"a": torch.zeros(2)}))
    with pytest.raises(OptionError, match="powers of t and 1 - t must be finite"):
        Timed(MSE(), data=math.inf)


def test_a_total_gives_each_term_what_it_looks_at():
    x, y = pair(3, 4)
    data, target = pair(3, 4, seed=1)
    context = Context(x, torch.full((3,), 0.5), data, target)
    found = Total((MSE(), LOOK, Total((L1(),))))(x, y, context)
    assert torch.allclose(found, MSE()(x, y, context) + LOOK(data, target, context) + L1()(x, y, context))
    with pytest.raises(OptionError, match="Perceptual looks at data estimates, and the context has none"):
        Total((LOOK,))(x, y, Context(x, torch.zeros(3)))
    with pytest.raises(OptionError, match="needs at least one term"):
        Total(())


def test_parts_of_a_dict_count_alike_however_large_they_are_or_as_they_are_weighed():
    x, y = ({"a": p[:, :1], "b": p[:, 1:]} for p in pair(3, 9))
    a, b = (x[k].sub(y[k]).square().mean(1) for k in "ab")
    assert torch.allclose(measure(MSE(), x, y), (a + b) / 2)
    assert torch.allclose(measure(MSE({"a": 0.7, "b": 3.0}), x, y), 0.7 * a + 3 * b)
    assert torch.allclose(measure(Huber(1e9, {"a": 0.0, "b": 2.0}), x, y), b)
    with pytest.raises(ShapeError, match=r"parts weighs \['a'\], the state has \['a', 'b'\]"):
        measure(L1({"a": 1.0}), x, y)


def test_pseudo_huber_takes_one_norm_of_a_whole_dict():
    x, y = pair(3, 9)
    parts = [{"a": p[:, :1], "b": p[:, 1:]} for p in (x, y)]
    assert torch.allclose(measure(PseudoHuber(0.5), *parts), measure(PseudoHuber(0.5), x, y))


def test_half_precision_is_compared_in_float32():
    x, y = pair(2, 1000)
    for dtype in (torch.bfloat16, torch.float16):
        a, b = x.to(dtype), y.to(dtype)
        assert measure(MSE(), a, b).dtype == torch.float32
        assert torch.equal(measure(MSE(), a, b), measure(MSE(), a.float(), b.float()))


def test_perceptual_loss_through_the_identity_is_the_mean_square_and_layers_are_averaged():
    x, y = pair(4, 3, 2)
    assert torch.allclose(measure(Perceptual(lambda v: v), x, y), measure(MSE(), x, y))
    assert torch.allclose(measure(Perceptual(lambda v: (v, 3 * v)), x, y), 5 * measure(MSE(), x, y))
    assert Perceptual(lambda v: v).on == "data"
    assert MSE().on == "prediction"


def test_perceptual_loss_gives_no_gradient_to_the_target():
    x, y = (v.requires_grad_() for v in pair(2, 3))
    measure(Perceptual(torch.sin), x, y).sum().backward()
    assert x.grad.any()
    assert y.grad is None


def test_perceptual_loss_looks_at_one_part_of_a_dict_state():
    x, y = ({"image": p[:, :4], "mask": p[:, 4:]} for p in pair(3, 6))
    assert torch.allclose(
        measure(Perceptual(torch.sin, part="image"), x, y), measure(MSE(), x["image"].sin(), y["image"].sin())
    )
    with pytest.raises(ShapeError, match=r"part None of a state that has the parts \['image', 'mask'\]"):
        measure(Perceptual(torch.sin), x, y)
    with pytest.raises(ShapeError, match="part 'image' of a state that has no parts"):
        measure(Perceptual(torch.sin, part="image"), *pair(2, 3))


def test_shapes_that_differ_are_refused_with_both():
    with pytest.raises(ShapeError, match=r"differ in shape: \(2, 3\) against \(2, 1\)"):
        measure(MSE(), torch.zeros(2, 3), torch.zeros(2, 1))


def test_constants_must_be_positive():
    with pytest.raises(OptionError, match="delta must be positive and finite, got 0"):
        Huber(0.0)
    with pytest.raises(OptionError, match="c must be positive and finite, got nan"):
        PseudoHuber(math.nan)


def test_premetrics_are_found_by_name():
    assert premetric("mse") == premetric("l2") == MSE()
    assert premetric("l1") == L1()
    assert premetric("huber") == Huber()
    own = PseudoHuber(1.0)
    assert premetric(own) is own
    with pytest.raises(UnknownOptionError, match="did you mean 'mse'"):
        premetric("mes")
    with pytest.raises(OptionError, match=r"a constant that fits the row's size: PseudoHuber\(c="):
        premetric("pseudo-huber")
    with pytest.raises(OptionError, match=r"a feature network: Perceptual\(features\)"):
        premetric("perceptual")
