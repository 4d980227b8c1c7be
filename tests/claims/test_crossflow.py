import pytest
import torch

from rheos.claims import crossflow as claim
from rheos.data.text import Letters
from rheos.train import CrossFlow


def test_the_words_are_the_letters_of_the_digits_names():
    train, held_out = claim.words()
    assert len(train) + len(held_out) == 1797
    batch = train.batch(torch.arange(50))
    assert batch.x.shape == (50, 1, 8, 8)
    read = Letters(5).read(batch.cond["embedding"].unflatten(1, (5, 27)))
    assert read == [claim.WORDS[k] for k in batch.cond["label"]]


def test_baseline_and_method_differ_in_source_and_condition_and_have_one_flow_network():
    plain, cross = claim.noise_field(), claim.word_field(None)
    both = (plain.net, cross.net.net)
    sizes = [sum(p.numel() for name, p in net.named_parameters() if "label" not in name) for net in both]
    assert sizes[0] == sizes[1]
    assert plain.conditions == {"label"}
    assert cross.conditions == {"indicator"}
    assert claim.word_field(0.0).net.spread == 0.0
    found = claim.objective(0.1)
    assert isinstance(found, CrossFlow)
    assert (found.losses.contrastive, found.losses.kl, found.losses.positives) == (0.1, 0.1, "label")


def test_the_spread_within_a_class_does_not_see_the_distance_between_classes():
    label = torch.arange(2000) % 2
    g = torch.Generator().manual_seed(0)
    x = 100.0 * label[:, None] + 0.5 * torch.randn(2000, 4, generator=g)
    assert claim.within(x, label) == pytest.approx(0.5, rel=4 / (2 * 8000) ** 0.5)  # four standard errors
    assert claim.within(x[label == 0][:1].repeat(4, 1), torch.zeros(4).long()) == 0.0


def test_the_small_pictures_are_the_averages_of_the_large_ones():
    train, _ = claim.small_digits()
    batch = train.columns
    torch.testing.assert_close(batch["low"], torch.nn.functional.avg_pool2d(train.x, 2))
    assert batch["concat"].shape == (len(train), 1, 8, 8)


def test_a_short_run_measures_every_line():
    table, pictures = claim.measure_words(steps=2, rows=60, seeds=(0,), progress=lambda line: None)
    names = {claim.FM, claim.DET, claim.BEST, claim.GUIDED}
    assert names <= table.keys()
    assert names <= pictures.keys()
    assert table[claim.DET][0].diversity == pytest.approx(0.0, abs=1e-6)
    errors = claim.measure_resolution(steps=1, seeds=(0,), progress=lambda line: None)
    assert set(errors) == {"from the small picture", "from noise"}
    assert claim._picture(pictures).startswith(b"\x89PNG")
