import math
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rheos.core.errors import (
    CheckpointError,
    ConditionError,
    DataError,
    NonFiniteError,
    OptionError,
    ShapeError,
    UnknownOptionError,
)
from rheos.data import load
from rheos.metrics import FeatureExtractor, FeatureNetInfo, features
from rheos.metrics.features import NAMES, load_feature_net, save_feature_net
from rheos.nets import FeatureNet


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def small(tmp_path):
    torch.manual_seed(0)
    net = FeatureNet(1, 3, 8, width=8, features=4).eval()
    info = FeatureNetInfo(
        name="small",
        classes=("a", "b", "c"),
        channels=1,
        sizes=(8, 12),
        features=4,
        parameters=sum(p.numel() for p in net.parameters()),
        accuracy={8: 0.5, 12: 0.25},
        balanced_accuracy={8: 0.4, 12: 0.2},
        trained=8,
        held_out=2,
        split=(0.2, 0),
        fingerprint="",
        seed=0,
    )
    save_feature_net(tmp_path / "small.safetensors", net, info)
    return net, info, tmp_path / "small.safetensors"


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_net_reaches_its_stated_accuracy_on_the_rows_it_never_saw(name):
    extractor = features(name)
    info = extractor.info
    assert set(info.accuracy) >= set(info.sizes)
    assert load(name).split(*info.split)[1].fingerprint == info.fingerprint, (
        "the split has changed since the net was trained: run scripts/train_features.py again"
    )
    for side, stated in info.accuracy.items():
        data = load(name, size=side)
        _, held_out = data.split(*info.split)
        batch = held_out.batch(torch.arange(len(held_out)))
        # another processor may round two nearly equal logits the other way
        assert extractor.accuracy(batch.x, batch.cond["label"]) == pytest.approx(stated, abs=2.5 / len(held_out))
    assert (info.held_out, info.trained) == (len(held_out), len(data) - len(held_out))
    assert (info.classes, info.channels) == (data.class_names, data.shape[0])


def test_the_digit_nets_are_good_and_every_shipped_net_is_small_and_has_as_many_features_as_stated():
    for name, floor in (("digits", 0.97), ("mnist5k", 0.97), ("emoji", 0.75)):
        extractor = features(name)
        info = extractor.info
        assert min(info.accuracy.values()) >= floor
        assert all(info.balanced_accuracy[side] <= 1 for side in info.accuracy)
        x = pictures(2, info.channels, info.sizes[0], info.sizes[0])
        assert extractor.features(x).shape == (2, info.features)
        assert extractor.logits(x).shape == (2, len(info.classes))
        assert sum(p.numel() for p in extractor.net.parameters()) == info.parameters
        assert (Path(str(files("rheos.metrics"))) / "weights" / f"{name}.safetensors").stat().st_size < 2_000_000
        assert str(info).startswith(f"{name} ({info.features} features, ")


def test_chunks_and_row_order_change_nothing():
    x = pictures(21, 1, 16, 16)
    expected = features("mnist5k").features(x)
    assert torch.allclose(features("mnist5k", chunk=4).features(x), expected, atol=1e-4)
    assert torch.allclose(features("mnist5k").features(x.flip(0)).flip(0), expected, atol=1e-4)
    assert not expected.requires_grad


def test_what_lies_outside_the_range_is_seen_clamped_as_it_is_shown():
    x = 3 * pictures(4, 1, 16, 16)
    net = features("mnist5k")
    assert torch.equal(net.features(x), net.features(x.clamp(-1, 1)))
    assert torch.equal(net.features(x.double()), net.features(x))


def test_a_saved_net_comes_back_with_its_info_and_leaves_no_other_file(small):
    net, info, path = small
    loaded, known = load_feature_net(path)
    assert known == info
    assert [p.name for p in path.parent.iterdir()] == ["small.safetensors"]
    x = pictures(5, 1, 8, 8)
    for extractor in (features(path), features(str(path))):
        assert extractor.name == "small"
        assert torch.equal(extractor.features(x), net.features(x))
        assert torch.equal(extractor.logits(x), net(x))
    assert not loaded.training
    assert repr(features(path)) == (
        "FeatureExtractor(small (4 features, 50.0 % at 8×8, 25.0 % at 12×12 on 2 held-out rows))"
    )


def test_accuracy_is_the_fraction_of_labels_recognised(small):
    net, _, path = small
    x = pictures(8, 1, 8, 8)
    label = net(x).argmax(1)
    assert features(path).accuracy(x, label) == 1.0
    label[:2] = (label[:2] + 1) % 3
    assert features(path).accuracy(x, label) == 0.75


def test_your_own_callable_gets_x_as_it_is_and_its_rows_flattened():
    x = torch.arange(24, dtype=torch.uint8).reshape(4, 6)
    own = features(lambda x: x.double().reshape(-1, 3, 2) * 2, name="mine", chunk=3)
    assert own.name == "mine"
    assert torch.equal(own.features(x), x.double() * 2)
    assert features(own) is own
    assert features(nn.Flatten()).name == "Flatten"
    assert repr(features(nn.Flatten())) == "FeatureExtractor(Flatten)"


def test_your_own_module_is_evaluated_without_dropout_and_put_back():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    net[0].eval()
    x = torch.ones(50, 4)
    assert torch.equal(features(net).features(x), x)
    assert (net.training, net[0].training, net[1].training) == (True, False, True)


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(UnknownOptionError, match="feature net 'mnist' is unknown; did you mean 'mnist5k'"):
        features("mnist")
    with pytest.raises(OptionError, match="chunk must be at least 1"):
        features("digits", chunk=0)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 15, 15), (2, 1, 16, 20), (2, 1, 64, 64), (2, 256)])
def test_pictures_that_the_net_was_not_trained_on_are_refused(shape):
    with pytest.raises(ShapeError, match=r"'mnist5k' sees square pictures \(N, 1, S, S\) with sides from 16 to \d+"):
        features("mnist5k").features(torch.zeros(shape))


def test_bytes_are_refused_and_nan_is_counted():
    x = pictures(4, 1, 8, 8)
    with pytest.raises(DataError, match=r"'digits' sees values in \[-1, 1\].*up to 255.*x / 127\.5 - 1"):
        features("digits").features(torch.linspace(0, 255, 64).reshape(1, 1, 8, 8))
    with pytest.raises(DataError, match=r"got torch\.uint8"):
        features("digits").features(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    x[1, 0, 0, 0] = math.nan
    x[3, 0, 0, 0] = math.inf
    with pytest.raises(NonFiniteError, match="2 of 4 pictures hold NaN or infinite numbers"):
        features("digits").features(x)
    with pytest.raises(ShapeError, match="at least one row"):
        features("digits").features(x[:0])


def test_a_callable_that_loses_rows_or_gives_no_tensor_is_refused():
    with pytest.raises(ShapeError, match=r"'sum' must map 5 rows to \(N, D\), got \(1, 2\)"):
        features(lambda x: x.sum(0, keepdim=True), name="sum").features(torch.zeros(5, 2))
    with pytest.raises(ShapeError, match=r"must map 5 rows to \(N, D\), got \(5,\)"):
        features(lambda x: x.sum(1), name="sum").features(torch.zeros(5, 2))
    with pytest.raises(ShapeError, match=r"must map 5 rows to \(N, D\), got tuple"):
        features(lambda x: (x, x), name="two").features(torch.zeros(5, 2))


def test_labels_must_fit_the_pictures_and_the_classes():
    net, x = features("digits"), pictures(3, 1, 8, 8)
    with pytest.raises(ConditionError, match=r"3 pictures need integer labels \(3,\), got torch\.int64 \(2,\)"):
        net.accuracy(x, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConditionError, match=r"got torch\.float32 \(3,\)"):
        net.accuracy(x, torch.zeros(3))
    with pytest.raises(
        ConditionError, match="Labels run from 0 to 10, but the feature net 'digits' knows classes 0 to 9"
    ):
        net.accuracy(x, torch.tensor([0, 10, 3]))


def test_your_own_callable_recognises_nothing():
    with pytest.raises(OptionError, match=r"'mine' has no classes.*Leave the labels out, or use"):
        features(lambda x: x, name="mine").accuracy(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))


def test_truncated_foreign_and_missing_files_are_refused(small, tmp_path):
    _, _, path = small
    whole = path.read_bytes()
    for cut in (0, 5, 200, len(whole) - 8):
        (tmp_path / "cut.safetensors").write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"cut\.safetensors cannot be read as a feature net"):
            features(tmp_path / "cut.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors is no feature net of rheos"):
        features(tmp_path / "foreign.safetensors")
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors", {"format": "rheos feature net 1", "config": "{}"})
    with pytest.raises(CheckpointError, match=r"other\.safetensors cannot be read as a feature net"):
        features(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"There is no feature net at .*none\.safetensors"):
        features(tmp_path / "none.safetensors")


def test_extractors_are_made_of_nets_too():
    net = FeatureNet(1, 3, 8, width=8, features=4)
    extractor = FeatureExtractor(net, "untrained")
    assert extractor.features(pictures(2, 1, 8, 8)).shape == (2, 4)
    assert extractor.logits(pictures(2, 1, 8, 8)).shape == (2, 3)
