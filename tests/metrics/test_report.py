import json

import pytest
import torch

from rheos.core.errors import OptionError, ShapeError
from rheos.data import load
from rheos.metrics import features, frechet, kernel_distance, prdc, quality, standard_error


@pytest.fixture(scope="module")
def held_out():
    return load("digits").split(0.2, seed=0)[1]


def rows(data, index):
    batch = data.batch(torch.arange(len(data))[index])
    return batch.x, batch.cond["label"]


def test_every_figure_is_that_of_its_metric_on_the_features(held_out):
    (fake, label), (real, _) = rows(held_out, slice(0, 150)), rows(held_out, slice(150, None))
    figures = quality(fake, real, "digits", k=4, label=label)
    net = features("digits")
    a, b = net.features(fake), net.features(real)
    assert (figures.frechet, figures.kernel) == (frechet(a, b), kernel_distance(a, b))
    assert figures.frechet_error == standard_error(frechet, a, b).error
    assert (figures.precision, figures.recall, figures.density, figures.coverage) == prdc(b, a, k=4)
    assert figures.recognised == net.accuracy(fake, label)
    assert figures.caption == f"150 fake and {len(real)} real rows, k = 4, features of digits"


def test_real_rows_are_good_and_noise_is_not(held_out):
    (fake, label), (real, _) = rows(held_out, slice(0, 150)), rows(held_out, slice(150, None))
    good = quality(fake, real, "digits", label=label)
    noise = torch.rand(fake.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    bad = quality(noise, real, "digits", label=label)
    assert abs(good.kernel) < 0.02 * bad.kernel
    assert good.frechet < 0.2 * bad.frechet
    assert good.precision > 0.7 > 0.5 > bad.precision
    assert good.coverage > 0.8 > 0.2 > bad.coverage
    assert good.recognised > 0.97 > 0.5 > bad.recognised


def test_a_set_against_itself_is_perfect():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    figures = quality(x, x.flip(0), lambda x: x, groups=0)
    assert figures.frechet < 1e-24
    assert (figures.precision, figures.recall, figures.coverage) == (1.0, 1.0, 1.0)
    assert figures.density == pytest.approx(6 / 5, rel=1e-12)
    assert figures.frechet_error is None
    assert figures.recognised is None


def test_the_figures_are_plain_json():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    figures = quality(x, x + 1, features(lambda x: x, name="identity"))
    plain = json.loads(json.dumps(figures.to_dict()))
    assert type(figures)(**plain) == figures
    assert (plain["features"], plain["fake"], plain["real"], plain["k"]) == ("identity", 40, 40, 5)


def test_labels_without_classes_and_too_few_rows_are_refused():
    x = torch.zeros(9, 3)
    with pytest.raises(OptionError, match="has no classes"):
        quality(x, x, lambda x: x, label=torch.zeros(9, dtype=torch.int64))
    with pytest.raises(ShapeError, match="fake needs at least 6 non-empty rows"):
        quality(x[:5], x, lambda x: x)
