"""The losses of a source's encoder."""

import math

import pytest
import torch
from torch.nn import functional

from rheos.train import SourceLosses, crossflow


@pytest.mark.parametrize("form", ["box", "square"])
def test_the_kl_is_zero_at_the_standard_normal_and_positive_around_it(form):
    zero = torch.zeros(1, 5, dtype=torch.float64)
    assert crossflow.kl(zero, zero, form).item() == 0.0
    for mean, level in ((0.5, 0.0), (0.0, 0.5), (0.0, -0.5)):
        assert crossflow.kl(zero + mean, zero + level, form).item() > 0


def test_the_square_form_is_the_kl_of_two_normal_laws():
    mean, std = torch.tensor([[0.3, -2.0]], dtype=torch.float64), torch.tensor([[0.5, 1.7]], dtype=torch.float64)
    laws = torch.distributions
    expected = laws.kl_divergence(laws.Normal(mean, std), laws.Normal(torch.zeros_like(mean), torch.ones_like(std)))
    torch.testing.assert_close(crossflow.kl(mean, 2 * std.log(), "square"), expected.mean(1))


def test_the_box_has_a_flat_floor_and_a_steep_wall():
    mean = torch.tensor([[0.5], [1.0], [3.0], [6.0]], dtype=torch.float64, requires_grad=True)
    crossflow.kl(mean, torch.zeros_like(mean)).sum().backward()
    exact = 0.5 * 6 * 0.3**6 * mean.detach() ** 5
    torch.testing.assert_close(mean.grad, exact)
    assert mean.grad[0] < 1e-4  # N(0, I) would pull with 0.5
    assert mean.grad[3] > 10.0


def test_contrast_is_the_mean_of_two_cross_entropies():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 2, 3, generator=g), torch.randn(5, 6, generator=g)
    scale = torch.tensor(1.3)
    found, _ = crossflow.contrast(a, b, scale)
    scores = scale.exp() * functional.normalize(a.flatten(1), dim=1) @ functional.normalize(b, dim=1).T
    own = torch.arange(5)
    both = 0.5 * (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own))
    torch.testing.assert_close(found.mean(), both)


def test_without_groups_a_repeated_caption_is_a_negative_and_with_groups_it_is_not():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    hot = torch.tensor(4.0, dtype=torch.float64)
    alone, hit = crossflow.contrast(z, z, hot)
    assert alone[0] == pytest.approx(math.log(2), abs=1e-9)  # two equal answers, one of them right
    assert alone[2] == pytest.approx(0, abs=1e-9)
    together, hits = crossflow.contrast(z, z, hot, torch.tensor([7, 7, 8]))
    assert together[0] == pytest.approx(math.log(2), abs=1e-9)  # the least that two equal shares can have
    assert hits.tolist() == [1, 1, 1]
    assert hit.sum() >= 2


def test_the_contrastive_scale_stops_growing_at_a_hundred():
    z = torch.eye(3, dtype=torch.float64)
    at, beyond = (crossflow.contrast(z, z.roll(1, 0), torch.tensor(s))[0] for s in (math.log(100.0), 9.0))
    torch.testing.assert_close(at, beyond)


def test_all_prompts_identical_leave_the_contrastive_loss_at_the_logarithm_of_the_batch():
    z, features = torch.ones(8, 3), torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    columns = crossflow.contrast(z, features, torch.tensor(0.0))[0]
    s = functional.normalize(features, dim=1).sum(1) / math.sqrt(3)
    torch.testing.assert_close(columns, 0.5 * (math.log(8) + torch.logsumexp(s, 0) - s))


def test_the_published_weights_mean_the_sum_over_the_latents_numbers():
    mean, level = torch.randn(2, 6), torch.randn(2, 6)
    weight = SourceLosses.paper(6).kl
    summed = -0.5 * (1 + level - (0.3 * mean) ** 6 - level.exp()).sum(1)
    torch.testing.assert_close(weight * crossflow.kl(mean, level), 1e-2 * summed)
