"""Pictures on the way: always the same noise, labels in order, raw and averaged side by side."""

import numpy as np
import pytest
import torch
from PIL import Image

from rheos import core, nets
from rheos.data import About, Data, load
from rheos.sample import draw
from rheos.show import grid, upscale
from rheos.train import Options, fit
from rheos.train.pictures import Pictures

SMALL = Options(batch=8, sample_every=2, sample_count=25, log_every=2, save_every=0, ema=0.5)


def _flow(classes: int = 10, **options):
    torch.manual_seed(0)
    return core.Field(nets.UNet(1, width=8, multipliers=(1, 2), attention=(), classes=classes, **options))


def test_a_grid_shows_raw_and_averaged_samples_of_fixed_noise_with_labels_in_order(tmp_path):
    digits = load("digits")
    run = fit(_flow(), core.FlowMatching(), digits, steps=4, out=tmp_path, options=SMALL)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["step_000002.png", "step_000004.png"]
    with Image.open(tmp_path / "samples" / "step_000004.png") as image:
        sheet = np.asarray(image)
        assert image.text == {"step": "4", "seed": "0", "sampler": "heun, 10 steps"}
    label = torch.arange(20) % 10  # 25 samples make two whole rows of ten labels
    for side, field in (("left", run.raw), ("right", run.field)):
        x = draw(field, 20, steps=10, solver="heun", seed=0, label=label)
        want = np.asarray(upscale(grid(digits.to_pictures(x), 10), 320).convert("RGB"))
        left = 12 if side == "left" else sheet.shape[1] - 12 - want.shape[1]
        assert np.array_equal(sheet[16 : 16 + want.shape[0], left : left + want.shape[1]], want)


def test_points_in_the_plane_become_a_scatter_plot(tmp_path, train):
    train(tmp_path, sample_every=6)
    with Image.open(tmp_path / "samples" / "step_000006.png") as image:
        assert image.width > 2.5 * image.height  # data, raw, average


def test_without_an_average_only_the_raw_samples_are_shown(tmp_path):
    options = Options(batch=8, sample_every=1, ema=0.0, save_every=0)
    fit(_flow(), core.FlowMatching(), load("digits"), steps=1, out=tmp_path, options=options)
    with Image.open(tmp_path / "samples" / "step_000001.png") as image:
        assert image.width < 450


def test_data_that_cannot_be_seen_are_not_drawn(tmp_path):
    flow = core.Field(nets.MLP(3, hidden=8))
    fit(flow, core.FlowMatching(), Data(torch.randn(20, 3)), steps=2, out=tmp_path, options=SMALL)
    assert not (tmp_path / "samples").exists()


def test_rows_go_through_the_classes_in_order_also_where_one_is_empty(labelled):
    digits = load("digits")
    field = _flow()
    rows = Pictures(field, core.FlowMatching(), digits, SMALL)._rows()
    assert digits.columns["label"][rows].tolist() == [*range(10), *range(10)]
    assert len(set(rows.tolist())) == 20
    some = digits.where([3, 5])
    rows = Pictures(field, core.FlowMatching(), some, SMALL)._rows()
    assert some.columns["label"][rows].tolist() == [3, 5] * 10


def test_a_flow_between_pairs_is_shown_from_the_starts_of_its_own_rows(points):
    x0 = torch.arange(200.0).reshape(100, 2)
    pairs = Data(points.x, {"x0": x0}, About("pairs"), conditions=("x0",))
    objective = core.FlowMatching("given-pairs", source=core.FromCondition("x0"))
    given = Pictures(core.Field(nets.MLP(2)), objective, pairs, SMALL)._given
    assert given.keys() == {"source"}
    assert torch.equal(given["source"][:100], x0)


def test_a_field_that_gives_nan_is_warned_of_and_trained_on(tmp_path, train, monkeypatch):
    from rheos.core.errors import NonFiniteError

    def fails(*args, **options):
        raise NonFiniteError("In step 1 of 10 a NaN.")

    monkeypatch.setattr("rheos.train.pictures.draw_solution", fails)
    with pytest.warns(RuntimeWarning, match="No picture after step 6: In step 1 of 10 a NaN"):
        assert train(tmp_path, sample_every=6).step == 6


def test_pictures_change_nothing_that_is_learned(tmp_path, train, equal):
    assert equal(train(tmp_path / "a", sample_every=1), train(tmp_path / "b", sample_every=0))
