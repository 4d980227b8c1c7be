import pytest
import torch

from rheos.claims import symmflow as claim
from rheos.claims.textures import shapes_on_textures
from rheos.data import load


def test_a_short_run_measures_every_figure_of_every_model() -> None:
    found = claim.measure_digits(3, 40, (0,), lambda line: None)
    for figure in claim.FIGURES:
        for name in claim.MODELS:
            (value,) = found.values[figure][name]
            assert value >= 0
    assert {tuple(x.shape) for x in found.shown.values()} == {(40, 1, 8, 8)}


def test_all_models_have_one_budget() -> None:
    data = load("digits", limit=40)
    steps = {name: claim.train_digits(name, data, 1, 0) for name in claim.MODELS}
    sizes = {name: sum(p.numel() for p in flow.parameters()) for name, flow in steps.items()}
    assert max(sizes.values()) < 1.1 * min(sizes.values())  # but for the code's own inputs and outputs
    assert {type(flow.net).__name__ for flow in steps.values()} == {"PairNet", "MLP"}


def test_spread_within_classes_ignores_what_is_between_them() -> None:
    labels = torch.arange(200) % 10
    x = labels[:, None, None, None] * 100.0 + torch.zeros(200, 1, 2, 2)
    assert claim._within(x, labels) == 0
    noise = torch.randn(200, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    # root of 4 pixels of variance 1; 190 degrees of freedom a pixel: a standard error of 2 %
    assert claim._within(x + noise, labels) == pytest.approx(2.0, rel=0.1)


def test_textures_have_three_classes_in_about_equal_shares_and_parts_of_their_own() -> None:
    data = shapes_on_textures(64)
    mask = data.columns["mask"]
    assert isinstance(mask, torch.Tensor)
    assert mask.shape == (64, 32, 32)
    shares = torch.bincount(mask.flatten(), minlength=3).double() / mask.numel()
    assert float(shares.min()) > 0.25
    assert torch.equal(shapes_on_textures(8).x, data.x[:8])  # row i is a function of i
    assert not torch.equal(shapes_on_textures(8, held_out=True).x, data.x[:8])


def test_a_short_run_on_textures_reads_masks() -> None:
    found = claim.measure_textures(2, (0,), lambda line: None, rows=16)
    assert 0 <= found.once[0] <= 1
    assert found.shown["read in one step"].shape == (10, 32, 32)
    digits = claim.Digits()
    digits.shown = {name: torch.zeros(10, 1, 8, 8) for name in ("one-hot", claim.BASELINE)}
    assert claim._picture(digits, found).startswith(b"\x89PNG")


def test_the_learning_rate_is_one_cycle() -> None:
    rates = [claim._options(128, 2e-3, 100, 0).rate(k, 100) for k in range(100)]
    assert rates.index(max(rates)) == 29
    assert rates == sorted(rates[:30]) + sorted(rates[30:], reverse=True)
    assert rates[-1] < 1e-5
