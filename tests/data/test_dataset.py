"""A set in memory: batches, flips, splits, parts."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, DataError, NonFiniteError, OptionError, ShapeError, UnknownOptionError
from rheos.data import About, Data

quick = settings(max_examples=25, deadline=None, derandomize=True)


def pictures(n=12, flip=False, conditions=None, channels=3):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, channels, 4, 6), generator=g, dtype=torch.uint8)
    columns = {
        "label": torch.arange(n) % 3,
        "caption": [f"picture {i}" for i in range(n)],
        "embedding": torch.randn(n, 5, generator=g),
    }
    return Data(x, columns, About("test", ("a", "b", "c")), flip=flip, conditions=conditions)


def test_a_batch_is_the_rows_asked_for_in_the_delivered_range_with_their_labels():
    data = pictures()
    index = torch.tensor([7, 0, 7])
    batch = data.batch(index)
    expected = data.x[index].double() / 127.5 - 1
    assert torch.allclose(batch.x.double(), expected, rtol=0, atol=1.2e-7)  # two roundings of float32 below 1
    assert torch.equal(batch.cond["label"], index % 3)
    assert list(batch.cond) == ["label"]


def test_conditions_name_the_columns_that_batches_carry():
    data = pictures(conditions=("embedding",))
    cond = data.batch(torch.tensor([4])).cond
    assert torch.equal(cond["embedding"], data.columns["embedding"][[4]])
    assert list(cond) == ["embedding"]
    assert pictures(conditions=()).batch(torch.tensor([4])).cond == {}


def test_vectors_are_delivered_as_they_are():
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)) * 50
    batch = Data(x).batch(torch.arange(9))
    assert torch.equal(batch.x, x)
    assert batch.cond == {}


@quick
@given(b=st.integers(1, 40), step=st.integers(0, 999))
def test_rows_are_mirrored_exactly_where_their_stream_says_so(b, step):
    data, plain = pictures(flip=True), pictures()
    index, draws = torch.arange(b) % 12, Draws.training(0, step, b)
    straight = plain.batch(index).x
    mirrored = (draws.uniform("flip") < 0.5)[:, None, None, None]
    assert torch.equal(data.batch(index, draws).x, torch.where(mirrored, straight.flip(-1), straight))


def test_splitting_a_batch_changes_no_flip():
    data, draws, index = pictures(flip=True), Draws.training(3, 5, 10), torch.arange(10)
    whole = data.batch(index, draws).x
    parts = [data.batch(index[s], draws.select(s)).x for s in (slice(0, 4), slice(4, 10))]
    assert torch.equal(whole, torch.cat(parts))


def test_nothing_is_mirrored_without_draws_or_without_the_option():
    index = torch.arange(12)
    straight = pictures().batch(index).x
    assert torch.equal(pictures(flip=True).batch(index).x, straight)
    assert torch.equal(pictures().batch(index, Draws.training(0, 0, 12)).x, straight)


def test_a_batch_never_writes_into_the_set():
    for data in (pictures(), Data(torch.randn(5, 2))):
        before = data.x.clone()
        data.batch(torch.arange(5)).x.zero_()
        assert torch.equal(data.x, before)


def test_flips_of_another_number_of_rows_are_refused():
    with pytest.raises(OptionError, match="3 streams for a batch of 2 rows"):
        pictures(flip=True).batch(torch.tensor([0, 1]), Draws.training(0, 0, 3))


def test_vectors_cannot_be_mirrored():
    with pytest.raises(OptionError, match=r"flip mirrors pictures.*\(2,\)"):
        Data(torch.zeros(3, 2), flip=True)


def test_the_set_says_what_it_holds():
    data = pictures()
    assert (len(data), data.shape, data.layout, data.classes) == (12, (3, 4, 6), "CHW", 3)
    assert (data.range, data.delivers, data.value_range) == ((0.0, 255.0), (-1.0, 1.0), (-1.0, 1.0))
    assert repr(data) == "Data('test': 12 × (3, 4, 6) uint8, 3 classes)"
    assert Data(torch.zeros(3, 2)).layout == "D"
    assert Data(torch.zeros(3, 2)).delivers is None


@quick
@given(n=st.integers(2, 200), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_the_two_parts_of_a_split_are_the_set(n, fraction, seed):
    data = Data(torch.arange(n, dtype=torch.float32)[:, None])
    train, held_out = data.split(fraction, seed)
    assert torch.equal(torch.cat((train.x, held_out.x)).sort(0).values, data.x)
    assert len(held_out) == min(max(round(fraction * n), 1), n - 1)


def test_a_split_keeps_rows_and_columns_together_and_is_stratified():
    data = pictures(n=60)
    for part in data.split(0.2, seed=4):
        numbers = torch.tensor([int(c.removeprefix("picture ")) for c in part.columns["caption"]])
        assert torch.equal(part.x, data.x[numbers])
        assert torch.equal(part.columns["label"], numbers % 3)
        assert part.columns["label"].bincount().tolist() == [len(part) // 3] * 3


def test_a_split_of_one_row_or_all_rows_is_refused():
    with pytest.raises(DataError, match=r"one row cannot be split.*data\.split=null"):
        Data(torch.zeros(1, 2)).split()
    with pytest.raises(OptionError, match="fraction must lie between 0 and 1, got 1"):
        pictures().split(1.0)


def test_where_keeps_one_class_by_number_or_name_and_the_numbers_stay():
    data = pictures()
    assert torch.equal(data.where("b").x, data.x[1::3])
    assert torch.equal(data.where([1, "c"]).columns["label"], torch.tensor([1, 2] * 4))
    assert data.where(2).classes == 3


def test_where_refuses_an_unknown_class():
    with pytest.raises(UnknownOptionError, match="label 'd' is unknown"):
        pictures().where("d")
    with pytest.raises(ConditionError, match="No row has the label 7; labels run from 0 to 2"):
        pictures().where(7)
    with pytest.raises(ConditionError, match="has no labels"):
        Data(torch.zeros(3, 2)).where(0)


def test_a_subset_is_given_by_numbers_or_by_a_mask():
    data = pictures()
    mask = torch.zeros(12, dtype=torch.bool)
    mask[[2, 5]] = True
    assert torch.equal(data.subset(mask).x, data.subset(torch.tensor([2, 5])).x)
    assert data.subset(torch.tensor([5, 2])).columns["caption"] == ["picture 5", "picture 2"]
    with pytest.raises(DataError, match="No row of the set 'test' is left"):
        data.subset(torch.zeros(12, dtype=torch.bool))


def test_a_limit_takes_each_class_in_proportion_and_never_more_than_there_is():
    data = pictures()
    assert data.limit(6).columns["label"].bincount().tolist() == [2, 2, 2]
    assert data.limit(100) is data


def test_pictures_come_back_from_what_is_delivered():
    data = pictures()
    assert torch.equal(data.to_pictures(data.batch(torch.arange(12)).x), data.x)
    with pytest.raises(NonFiniteError, match="cannot show NaN"):
        data.to_pictures(torch.full((1, 3, 4, 6), torch.nan))
    with pytest.raises(DataError, match="no pictures of a declared range"):
        Data(torch.zeros(3, 2)).to_pictures(torch.zeros(3, 2))


def test_a_stored_picture_is_refused_where_a_delivered_one_is_meant():
    data = pictures()
    data.check(data.batch(torch.arange(12)).x)
    with pytest.raises(DataError, match="y holds values of type uint8 from"):
        data.check(data.x, "y")
    with pytest.raises(DataError, match=r"but \(-1, 1\) is expected"):
        data.check(data.x.float())


def test_the_fingerprint_changes_with_any_number_word_or_label():
    data = pictures()
    x, label = data.x.clone(), data.columns["label"].clone()
    x[3, 0, 0, 0] ^= 1
    label[0] = 2
    captions = ["another", *data.columns["caption"][1:]]
    changed = [
        Data(x, data.columns, data.about),
        Data(data.x, {**data.columns, "label": label}, data.about),
        Data(data.x, {**data.columns, "caption": captions}, data.about),
        Data(data.x, data.columns, About("test", ("a", "b", "d"))),
        Data(data.x.reshape(12, 3, 6, 4), data.columns, data.about),
    ]
    assert len({d.fingerprint for d in [data, *changed]}) == 6
    assert pictures().fingerprint == data.fingerprint


def test_the_fingerprint_does_not_depend_on_strides_or_on_the_order_of_columns():
    data = pictures()
    x = data.x.contiguous(memory_format=torch.channels_last)
    columns = dict(reversed(list(data.columns.items())))
    assert Data(x, columns, data.about).fingerprint == data.fingerprint


def test_the_spec_of_a_set_made_in_memory_is_plain_and_has_no_source():
    spec = json.loads(json.dumps(pictures(flip=True, conditions=("embedding",)).spec))
    assert spec == {"source": None, "flip": True, "conditions": ["embedding"]}


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
def test_the_set_moves_with_its_columns_and_batches_are_the_same_there(device):
    data, draws, index = (
        pictures(flip=True, conditions=("label", "embedding")),
        Draws.training(0, 1, 9),
        torch.arange(9),
    )
    moved = data.to(device)
    here, there = data.batch(index, draws), moved.batch(index, draws)
    assert there.x.device.type == there.cond["label"].device.type == device
    assert torch.equal(here.x, there.x.cpu())
    assert torch.equal(here.cond["embedding"], there.cond["embedding"].cpu())
    assert moved.columns["caption"] == data.columns["caption"]
    assert moved.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(3, 2, dtype=torch.float64), "got float64"),
        (torch.zeros(0, 2), r"got float32 \(0, 2\)"),
        (torch.zeros(3), r"N ≥ 1, got float32 \(3,\)"),
    ],
)
def test_samples_of_another_type_or_none_are_refused(x, match):
    with pytest.raises(DataError, match=match):
        Data(x)


def test_columns_that_do_not_fit_are_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(DataError, match="column 'caption' has 2 rows, but there are 3 samples"):
        Data(x, {"caption": ["a", "b"]})
    with pytest.raises(ConditionError, match=r"must lie in 0\.\.1 for 2 classes, got 0\.\.2"):
        Data(x, {"label": torch.tensor([0, 1, 2])}, About(class_names=("a", "b")))
    with pytest.raises(ConditionError, match=r"got -1\.\.1"):
        Data(x, {"label": torch.tensor([0, 1, -1])}, About(class_names=("a", "b")))
    with pytest.raises(ConditionError, match="must be an int64 tensor"):
        Data(x, {"label": torch.zeros(3)}, About(class_names=("a", "b")))


def test_a_condition_that_is_unknown_or_text_is_refused():
    with pytest.raises(UnknownOptionError, match="did you mean 'embedding'"):
        pictures(conditions=("embeding",))
    with pytest.raises(ConditionError, match="'caption' holds text"):
        pictures(conditions=("caption",))
    with pytest.raises(ConditionError, match="has no columns"):
        Data(torch.zeros(3, 2), conditions=("label",))


def test_only_pictures_change_size_and_colour():
    with pytest.raises(ShapeError, match="Only pictures"):
        Data(torch.zeros(3, 2)).resize(4)
    with pytest.raises(ShapeError, match="Only pictures"):
        Data(torch.zeros(3, 2)).recolour("grey")
    assert pictures().resize(8).shape == (3, 8, 8)
    assert pictures().recolour("grey").shape == (1, 4, 6)
    data = pictures()
    assert data.recolour("rgb") is data
    assert data.resize(8).resize(8).spec == {"source": None}
