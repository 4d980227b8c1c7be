import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rheos.core.errors import NonFiniteError, OptionError, ShapeError
from rheos.metrics import psnr, ssim

quick = settings(max_examples=25, deadline=None, derandomize=True)


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


@quick
@given(error=st.floats(1e-6, 1.0), data_range=st.floats(1.0, 255.0))
def test_a_constant_error_has_a_closed_psnr(error, data_range):
    reference = torch.zeros(2, 3, 4, 4).double()
    expected = 20 * math.log10(data_range / error)
    assert psnr(reference + error, reference, data_range).tolist() == pytest.approx([expected] * 2, rel=1e-9)


@quick
@given(a=st.floats(0.0, 1.0), b=st.floats(0.0, 1.0))
def test_constant_pictures_have_a_closed_ssim(a, b):
    flat = torch.ones(1, 1, 12, 12).double()
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert float(ssim(a * flat, b * flat, data_range=1.0)) == pytest.approx(expected, abs=1e-9)


def test_equal_pictures_have_infinite_psnr_and_ssim_one():
    x = pictures(3, 2, 16, 16)
    assert psnr(x, x, 2.0).tolist() == [math.inf] * 3
    assert ssim(x, x, 2.0).tolist() == pytest.approx([1.0] * 3, abs=1e-9)


def test_both_agree_with_scikit_image_picture_by_picture():
    x, y = pictures(3, 2, 20, 26, seed=1), pictures(3, 2, 20, 26, seed=2)
    x[1] = y[1] + 0.1 * x[1]
    for i in range(3):
        a, b = x[i].numpy(), y[i].numpy()
        assert float(psnr(x, y, 2.0)[i]) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=2.0), rel=1e-12)
        options = {"data_range": 2.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected = structural_similarity(a, b, channel_axis=0, **options)
        assert float(ssim(x, y, 2.0)[i]) == pytest.approx(expected, rel=1e-6)


def test_the_declared_range_makes_units_irrelevant_and_bytes_are_welcome():
    byte = torch.randint(0, 256, (2, 2, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x, y = byte
    unit = byte.double() / 255
    assert torch.allclose(psnr(x, y, 255.0), psnr(unit[0], unit[1], 1.0), rtol=1e-12)
    assert torch.allclose(ssim(x, y, 255.0), ssim(unit[0], unit[1], 1.0), rtol=1e-9)


def test_a_picture_does_not_depend_on_its_batch():
    x, y = pictures(4, 1, 16, 16, seed=1), pictures(4, 1, 16, 16, seed=2)
    for metric in (psnr, ssim):
        assert torch.allclose(metric(x.flip(0), y.flip(0), 2.0).flip(0), metric(x, y, 2.0), rtol=1e-12)
        assert torch.allclose(metric(x[2:3], y[2:3], 2.0), metric(x, y, 2.0)[2:3], rtol=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_range_that_the_reference_leaves_is_refused(metric):
    with pytest.raises(OptionError, match=r"span 0 to 255, more than data_range=2\. Declare"):
        metric(torch.zeros(1, 1, 16, 16), torch.linspace(0, 255, 256).reshape(1, 1, 16, 16), 2.0)
    with pytest.raises(OptionError, match=r"data_range must be a positive number, got 0\.0"):
        metric(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), 0.0)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_other_shapes_and_nan_are_refused(metric):
    with pytest.raises(ShapeError, match=r"one shape \(B, \.\.\.\), got \(1, 1, 16, 16\), \(2, 1, 16, 16\)"):
        metric(torch.zeros(1, 1, 16, 16), torch.zeros(2, 1, 16, 16), 2.0)
    with pytest.raises(NonFiniteError, match="A picture holds NaN"):
        metric(torch.full((1, 1, 16, 16), math.nan), torch.zeros(1, 1, 16, 16), 2.0)


def test_small_pictures_need_a_small_window():
    x = pictures(1, 1, 8, 8)
    with pytest.raises(ShapeError, match=r"H, W ≥ 11, got \(1, 1, 8, 8\)\. Pass a smaller odd window"):
        ssim(x, x, 2.0)
    assert float(ssim(x, x, 2.0, window=7)) == pytest.approx(1.0, abs=1e-9)
    with pytest.raises(OptionError, match="window must be odd and sigma positive"):
        ssim(x, x, 2.0, window=6)
