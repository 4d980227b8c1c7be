"""A user's arrays: what their types mean, and what is refused."""

import io
import os

import numpy as np
import pytest
import torch

from rheos.core.errors import ConditionError, DataError, NonFiniteError, OptionError, ShapeError
from rheos.data import load, save

rng = np.random.default_rng(0)
BYTES = rng.integers(0, 256, (6, 3, 8, 9), dtype=np.uint8)
FLOATS = rng.random((6, 3, 8, 9)).astype(np.float32)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_bytes_are_pictures_of_0_to_255(make):
    data = load(make(BYTES))
    assert torch.equal(data.x, torch.from_numpy(BYTES))
    assert (data.range, data.delivers, data.layout, data.notes) == ((0.0, 255.0), (-1.0, 1.0), "CHW", ())


def test_channels_last_and_grey_pictures_are_understood_and_noted():
    last = load(BYTES.transpose(0, 2, 3, 1))
    assert torch.equal(last.x, torch.from_numpy(BYTES))
    assert "(N, H, W, C) were transposed" in last.notes[0]
    grey = load(BYTES[:, 0])
    assert torch.equal(grey.x, torch.from_numpy(BYTES[:, :1]))
    assert "grey pictures" in grey.notes[0]


def test_bytes_of_another_declared_range_fill_the_delivered_one():
    data = load((BYTES // 16), range=(0, 15))
    x = data.batch(torch.arange(6)).x
    assert (x.min(), x.max()) == (-1.0, 1.0)
    assert data.to_pictures(x).max() == 255


def test_bytes_that_stay_dark_are_noted():
    assert load(BYTES // 16).notes == ("No value exceeds 15, although the range is declared as 0..255.",)


def test_floating_pictures_need_a_range_and_the_error_tells_the_three_choices():
    choices = r'from .* to .* need a declared range\. Pass range=\(0, 1\) or range=\(-1, 1\).*range="raw"'
    with pytest.raises(DataError, match=choices):
        load(FLOATS)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255)])
def test_floating_pictures_of_a_declared_range_are_delivered_in_minus_one_to_one(low, high):
    data = load(FLOATS * (high - low) + low, range=(low, high))
    expected = torch.from_numpy(FLOATS) * 2 - 1
    assert torch.allclose(data.batch(torch.arange(6)).x, expected, atol=1e-6)  # a few float32 roundings
    assert (data.range, data.delivers) == ((low, high), (-1.0, 1.0))


def test_raw_numbers_are_delivered_as_they_are():
    latents = rng.normal(size=(5, 7, 4, 4, 2)) * 9
    data = load(latents, range="raw")
    assert torch.equal(data.batch(torch.arange(5)).x, torch.from_numpy(latents).float())
    assert (data.delivers, data.layout) == (None, "array")


def test_vectors_are_float32_with_or_without_a_range():
    x = rng.normal(size=(9, 2))
    assert torch.equal(load(x).x, torch.from_numpy(x).float())
    assert load(torch.from_numpy(x).half()).x.dtype == torch.float32
    declared = load(np.tanh(x), range=(-1, 1))
    assert (declared.range, declared.delivers) == ((-1.0, 1.0), (-1.0, 1.0))
    assert torch.equal(declared.batch(torch.arange(9)).x, declared.x)


def test_values_outside_the_declared_range_are_refused():
    with pytest.raises(DataError, match=r"array holds values from .*, outside its declared range \(0, 1\)"):
        load(FLOATS * 255, range=(0, 1))
    with pytest.raises(DataError, match=r"outside its declared range \(0, 15\)"):
        load(BYTES, range=(0, 15))
    with pytest.raises(DataError, match=r"outside its declared range \(-1, 1\)"):
        load(np.array([[3.0, 0.0]]), range=(-1, 1))


@pytest.mark.parametrize("bad", [(1, 0), (0, np.inf), (0,), "bytes"])
def test_a_range_that_is_none_is_refused(bad):
    with pytest.raises(OptionError, match=r'range must be \(low, high\) with low < high, or "raw"'):
        load(FLOATS, range=bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_in_float32_are_refused(bad, tmp_path):
    x = rng.normal(size=(4, 2))
    x[2, 1] = bad
    np.save(tmp_path / "x.npy", x)
    with (
        np.errstate(over="ignore"),
        pytest.raises(NonFiniteError, match="x holds 1 NaN or infinite number, first in row 2"),
    ):
        load(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (np.zeros((3, 1, 4, 4), np.int64), DataError, r"samples are int64, but uint8.*astype\('uint8'\)"),
        (np.zeros((3, 2), bool), DataError, "samples are bool"),
        (np.zeros((3, 2), complex), DataError, "x has the type complex128, but numbers are needed"),
        (np.array([["a", "b"]]), DataError, "x has the type <U1"),
        (np.array([[None, {}]]), DataError, "x has the type object"),
        (np.zeros((3, 16), np.uint8), DataError, r"of shape \(N, 16\) are no pictures yet"),
        (np.zeros(3), ShapeError, r"got \(3,\); one number a row is \(N, 1\)"),
        (np.zeros((0, 2)), ShapeError, r"N ≥ 1, got \(0, 2\)"),
        (np.zeros((3, 2, 8, 8), np.uint8), ShapeError, r"1, 3 or 4 channels, got \(3, 2, 8, 8\)"),
    ],
)
def test_samples_of_another_type_or_shape_are_refused(x, error, match):
    with pytest.raises(error, match=match):
        load(x)


def test_foreign_byte_order_read_only_and_reversed_arrays_are_read_right():
    x = rng.normal(size=(4, 3)).astype(">f8")
    x.setflags(write=False)
    assert torch.equal(load(x[::-1]).x, torch.from_numpy(x[::-1].astype("<f4")))


def test_an_npz_gives_samples_labels_and_columns(tmp_path):
    embedding, mask, words = rng.normal(size=(6, 4)), BYTES[:, :1] > 99, np.array(["a", "b"] * 3)
    np.savez(
        tmp_path / "set.npz",
        images=BYTES,
        y=[0, 1, 2] * 2,
        embedding=embedding,
        mask=mask,
        caption=words,
        year=range(6),
    )
    data = load(tmp_path / "set.npz", conditions=["label", "embedding", "mask"])
    assert (data.name, data.classes, data.class_names) == ("set", 3, ("0", "1", "2"))
    cond = data.batch(torch.tensor([5])).cond
    assert cond["label"].tolist() == [2]
    assert torch.equal(cond["embedding"], torch.from_numpy(embedding[5:]).float())
    assert torch.equal(cond["mask"], torch.from_numpy(mask[5:]))
    assert data.columns["caption"] == ["a", "b"] * 3
    assert data.columns["year"].dtype == torch.int64
    assert load(**data.spec).fingerprint == data.fingerprint


def test_a_mapping_is_read_like_an_npz_and_one_nameless_array_is_the_samples(tmp_path):
    data = load({"x": BYTES, "labels": ["dog", "cat", "dog"] * 2})
    assert (data.class_names, data.columns["label"].tolist()) == (("cat", "dog"), [1, 0, 1] * 2)
    np.savez(tmp_path / "x.npz", BYTES)
    assert torch.equal(load(tmp_path / "x.npz").x, data.x)


def test_an_npz_without_samples_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "x.npz", a=BYTES, b=BYTES)
    with pytest.raises(DataError, match=r"x has no samples: give them the name 'x' \(found: a, b\)"):
        load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([0, 1, -1, 0, 0, 0], r"must lie in 0\.\.999, got -1\.\.1"),
        ([0, 1, 5000, 0, 0, 0], r"must lie in 0\.\.999, got 0\.\.5000; number the classes from 0"),
        ([0.0, 1.0, 1.5, 0, 0, 0], r"whole numbers of shape \(N,\), got float32 \(6,\)"),
        (np.eye(6, dtype=int), r"got int64 \(6, 6\).*one-hot labels with \.argmax\(1\)"),
        ([True] * 6, "got bool"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(labels, match):
    with pytest.raises(ConditionError, match=match):
        load({"x": BYTES, "label": labels})


def test_a_foreign_entry_under_our_name_is_refused(tmp_path):
    for entry in ("no JSON", "{}", "[1]"):
        np.savez(tmp_path / "x.npz", x=BYTES, rheos=entry)
        with pytest.raises(DataError, match="x has an entry 'rheos' that rheos did not write"):
            load(tmp_path / "x.npz")


def test_labels_given_twice_are_refused():
    with pytest.raises(DataError, match="labels twice, under label and y"):
        load({"x": BYTES, "label": [0] * 6, "y": [0] * 6})


def test_columns_of_another_length_or_type_are_refused():
    with pytest.raises(DataError, match="column 'count' has 1 rows, but there are 6 samples"):
        load({"x": BYTES, "count": np.array(3)})
    with pytest.raises(DataError, match="column 'label' has 2 rows, but there are 6 samples"):
        load({"x": BYTES, "label": [0, 1]})
    with pytest.raises(DataError, match="The column 'extra' has the type object"):
        load({"x": BYTES, "extra": [None] * 6})
    with pytest.raises(NonFiniteError, match="The column 'extra' holds 6 NaN"):
        load({"x": BYTES, "extra": [np.nan] * 6})


def test_python_objects_in_a_file_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.save(tmp_path / "x.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([Trap()], dtype=object))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match=r"holds Python objects.*pickles are never loaded"):
            load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_a_truncated_or_foreign_file_is_refused(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, BYTES)
    (tmp_path / "cut.npy").write_bytes(buffer.getvalue()[:500])
    buffer = io.BytesIO()
    np.savez(buffer, x=BYTES)
    (tmp_path / "cut.npz").write_bytes(buffer.getvalue()[:500])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_text("hello, this is no array")
    for name in ("cut.npy", "cut.npz", "empty.npy"):
        with pytest.raises(DataError, match=f"{name} is truncated or not a numpy file"):
            load(tmp_path / name)
    with pytest.raises(DataError, match="or is no numpy file at all"):
        load(tmp_path / "text.npy")


@pytest.mark.parametrize("declared", ["bytes", (0, 1), "raw"])
def test_a_saved_set_comes_back_whole(tmp_path, declared):
    x = BYTES if declared == "bytes" else FLOATS
    columns = {"label": [2, 0, 0, 1, 0, 2], "caption": list("abcdeé"), "v": FLOATS[:, 0, 0]}
    data = load({"x": x, **columns}, range=None if declared == "bytes" else declared).subset(torch.arange(5))
    save(data, tmp_path / "part.npz")
    again = load(tmp_path / "part.npz")
    assert again.fingerprint == data.fingerprint
    assert again.name == data.name
    assert load(**again.spec).fingerprint == data.fingerprint
    assert [f.name for f in tmp_path.iterdir()] == ["part.npz"]


def test_a_set_that_cannot_be_written_leaves_the_old_file_alone(tmp_path, monkeypatch):
    data = load(BYTES)
    save(data, tmp_path / "x.npz")
    before = (tmp_path / "x.npz").read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"x\.npz cannot be written: No space left on device"):
        save(data, tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(DataError, match=r"must end in \.npz, got 'x\.npy'"):
        save(data, tmp_path / "x.npy")
