"""The claim `lfm`: its crops, its features, and that every part measures both sides alike."""

import pytest
import torch

from rheos.claims import crops as photographs
from rheos.claims import lfm
from rheos.metrics import frechet

TINY = lfm.Budget(autoencoder=2, flow=2, digits=2, holes=2, train=130, rows=80)


def quiet(line: str) -> None:
    """Nobody listens."""


def test_crops_of_training_and_test_lie_on_either_side_of_four_fifths():
    picture = torch.arange(10).expand(3, 4, 10)
    assert photographs._side(picture, "train").max() == 7
    assert photographs._side(picture, "test").min() == 8


def test_a_crop_is_a_function_of_its_number_and_part():
    few, many = photographs.crops(20, "train"), photographs.crops(60, "train")
    assert torch.equal(few.x, many.x[:20])
    assert few.shape == (3, 16, 16)
    assert not torch.equal(photographs.crops(20, "test").x, few.x)


def test_principal_components_keep_the_variance_of_what_they_were_made_of():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, 4, 4, generator=g) * torch.linspace(0.1, 2, 48).reshape(3, 4, 4)
    look = photographs.PrincipalComponents(x, 48)
    total = torch.cov(x.double().flatten(1).T).trace()
    torch.testing.assert_close(look(x).var(0).sum(), total, rtol=1e-9, atol=0)
    leading = photographs.PrincipalComponents(x, 4)
    top = torch.linalg.eigvalsh(torch.cov(x.double().flatten(1).T))[-4:].sum()
    torch.testing.assert_close(leading(x).var(0).sum(), top, rtol=1e-9, atol=0)


def test_random_features_are_the_same_in_every_call_and_tell_pictures_apart():
    x = lfm.every(photographs.crops(100, "train"))
    assert torch.equal(photographs.random_features(x), photographs.random_features(x))
    assert frechet(photographs.random_features(x), photographs.random_features(torch.randn_like(x))) > 1


def test_all_parts_measure_ratios_with_the_thresholds_that_they_are_given():
    figures, notes, sheets = lfm.latent_or_pixel(TINY, (0,), quiet, 0.7)
    assert [(f.op, f.threshold) for f in figures] == [("<=", 0.7)] * 4
    assert all(f.value > 0 for f in figures)
    assert sheets.keys() == {"unseen crops", "latent flow", "pixel flow"}
    assert any("reconstructed" in line for line in notes)
    guided, _ = lfm.guidance(TINY, (0,), quiet, 0.05)
    assert (guided.op, guided.threshold) == (">=", 0.05)
    filled, _, sheets = lfm.hole_filling(TINY, (0,), quiet, 0.6)
    assert filled.value == pytest.approx(1.0, abs=0.2)  # two steps teach neither of them anything
    assert lfm._picture(sheets).startswith(b"\x89PNG")
