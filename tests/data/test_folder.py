"""A user's folder of pictures: what is read, what is labelled, what is refused."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from rheos.core.errors import ConditionError, DataError, OptionError
from rheos.data import folder as module
from rheos.data import load


def paint(path, value=0, shape=(6, 8), channels=3):
    """A uniform picture; losslessly kept by every suffix but .jpg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*shape, 3) if channels == 3 else shape, value, np.uint8)
    Image.fromarray(pixels).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


def values(data):
    return data.x[:, 0, 0, 0].tolist()


@pytest.fixture
def classes(tmp_path):
    for i, name in enumerate(["cat/a.png", "cat/b.png", "dog/a.png", "dog/deep/c.png", "ant/z.png"]):
        paint(tmp_path / name, 10 * i)
    return tmp_path


def test_every_known_type_is_read_in_sorted_order(tmp_path):
    for i, suffix in enumerate([".bmp", ".gif", ".jpeg", ".JPG", ".png", ".webp"]):
        paint(tmp_path / f"{i}{suffix}", 20 * i)
    (tmp_path / "notes.md").write_text("no picture")
    paint(tmp_path / ".hidden.png")
    paint(tmp_path / "__MACOSX" / "x.png")
    data = load(tmp_path)
    assert values(data) == [0, 20, 40, 60, 80, 100]
    assert (data.shape, data.classes, data.notes, data.name) == ((3, 6, 8), 0, (), tmp_path.name)


def test_subfolders_become_classes_in_sorted_order(classes):
    data = load(classes)
    assert data.class_names == ("ant", "cat", "dog")
    assert data.columns["label"].tolist() == [0, 1, 1, 2, 2]
    assert values(data) == [40, 0, 10, 20, 30]
    assert data.batch(torch.tensor([3])).cond["label"].tolist() == [2]


def test_one_subfolder_or_strays_make_no_classes(tmp_path):
    paint(tmp_path / "only" / "a.png")
    assert load(tmp_path).classes == 0
    paint(tmp_path / "more" / "a.png")
    paint(tmp_path / "stray.png")
    data = load(tmp_path)
    assert data.classes == 0
    assert "outside the subfolders" in data.notes[0]


def test_a_folder_is_read_again_from_its_spec(classes):
    data = load(str(classes), size=4, limit=3, flip=True, colour="grey", split="train")
    again = load(**data.spec)
    assert data.spec["source"] == str(classes.resolve())
    assert again.fingerprint == data.fingerprint
    assert again.flip


def test_a_limit_reads_some_of_each_class(tmp_path):
    for i in range(20):
        paint(tmp_path / "ab"[i % 2] / f"{i:02}.png", i)
    data = load(tmp_path, limit=6)
    assert data.columns["label"].bincount().tolist() == [3, 3]
    assert set(values(data)) <= set(range(20))
    assert torch.equal(data.x, load(tmp_path).limit(6).x)


def test_mixed_sizes_are_read_at_the_majoritys_or_32_or_the_given_one(tmp_path):
    for i in range(3):
        paint(tmp_path / f"{i}.png", shape=(10, 10))
    paint(tmp_path / "x.png", shape=(40, 20))
    assert load(tmp_path).shape == (3, 10, 10)
    assert load(tmp_path, size=7).shape == (3, 7, 7)
    for i in range(2):
        paint(tmp_path / f"y{i}.png", shape=(30, 20 + i))
    data = load(tmp_path)
    assert data.shape == (3, 32, 32)
    assert "none has a majority" in data.notes[0]


def test_a_grey_folder_has_one_channel_unless_a_colour_is_asked_for(tmp_path):
    paint(tmp_path / "a.png", 9, channels=1)
    assert load(tmp_path).shape == (1, 6, 8)
    assert load(tmp_path, colour="rgb").shape == (3, 6, 8)
    paint(tmp_path / "b.png", 7)
    assert load(tmp_path).shape == (3, 6, 8)
    assert values(load(tmp_path, colour="grey")) == [9, 7]


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 6), (v, v, v)) for v in (30, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert values(load(tmp_path)) == [30]


def test_captions_come_from_sidecars_and_gaps_are_noted(tmp_path):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("a blue door\n", encoding="utf-8")
    data = load(tmp_path)
    assert data.columns["caption"] == ["", "a blue door"]
    assert data.notes == ("1 of 2 pictures have no caption file; theirs is empty.",)


@pytest.mark.parametrize("line", ["{}\ta door, blue", "{},a door, blue", "./{}\ta door, blue"])
def test_captions_come_from_one_file(tmp_path, line):
    paint(tmp_path / "a.png")
    paint(tmp_path / "sub" / "b.png")
    (tmp_path / "captions.txt").write_text(f"{line.format('sub/b.png')}\n\na.png\tfirst\n", encoding="utf-8")
    assert load(tmp_path).columns["caption"] == ["first", "a door, blue"]


def test_a_table_gives_captions_labels_and_further_columns(tmp_path):
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    table = '\ufefffile_name,text,label,place\n2.png,"two, too",dog,here\n0.png,zero,cat,there\n1.png,one,dog,\n'
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8")
    data = load(tmp_path)
    assert data.columns["caption"] == ["zero", "one", "two, too"]
    assert data.columns["place"] == ["there", "", "here"]
    assert (data.columns["label"].tolist(), data.class_names) == ([0, 1, 1], ("cat", "dog"))


def test_a_caption_may_have_lines_of_its_own_and_only_line_ends_end_a_row(tmp_path):
    for i in range(2):
        paint(tmp_path / f"{i}.png", i)
    table = '\ufefffile_name,caption\r\n0.png,"red\r\napple"\r\n1.png,a\u2028b\r\n'
    (tmp_path / "metadata.csv").write_bytes(table.encode())
    assert load(tmp_path).columns["caption"] == ["red\napple", "a\u2028b"]
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "captions.txt").write_bytes("0.png,a\u2028b\r\n1.png,c\r\n".encode())
    assert load(tmp_path).columns["caption"] == ["a\u2028b", "c"]


def test_labels_that_are_numbers_sort_as_numbers(tmp_path):
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    (tmp_path / "metadata.csv").write_text("file_name,label\n0.png,10\n1.png,9\n2.png,10\n")
    data = load(tmp_path)
    assert (data.columns["label"].tolist(), data.class_names) == ([1, 0, 1], ("9", "10"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"file_name,caption\na.png,x\n", "does not name 1 of 2 pictures, first 'b.png'"),
        (b"name,caption\na.png,x\n", r"no column 'file_name' \(its columns: name, caption\)"),
        (b"", r"its columns: none"),
        (b"file_name,caption\na.png,x,y\nb.png,z\n", "lines of unequal length"),
        (b"file_name,caption\na.png\nb.png,z\n", "lines of unequal length"),
        (b"file_name,caption\na.png,\xff\n", "is not UTF-8 text"),
        (b'file_name,caption\na.png,"' + b"x" * 140_000, "Is a quote left open"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, text, match):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_bytes(text)
    with pytest.raises(DataError, match=match):
        load(tmp_path)


def test_an_empty_folder_and_one_without_pictures_are_told_apart(tmp_path):
    with pytest.raises(DataError, match=r"is empty; known types are \.png, \.jpg"):
        load(tmp_path)
    (tmp_path / "a.tiff").write_bytes(b"")
    with pytest.raises(DataError, match="holds no picture among its 1 files"):
        load(tmp_path)


def spoil(folder):
    """Two good pictures and three bad ones: cut off in the middle, at its start, and no picture at all."""
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    half = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(half[: len(half) // 2])
    (folder / "2.png").write_bytes(half[:10])
    (folder / "9.jpg").write_text("hello")


def test_all_corrupt_files_are_named_at_once_with_the_way_out(tmp_path):
    spoil(tmp_path)
    bad = r"1\.png \(.*truncated\); 2\.png \(not a picture.*\); 9\.jpg \(not a picture"
    with pytest.raises(DataError, match=rf"3 of 5 pictures in .* cannot be read: {bad}.*pass skip_corrupt=True"):
        load(tmp_path)


def test_skipping_leaves_the_good_ones_with_their_columns_and_a_note(tmp_path):
    spoil(tmp_path)
    for f in ["0.png", "1.png", "2.png", "3.png", "9.jpg"]:
        (tmp_path / f"{f[0]}.txt").write_text(f"caption {f[0]}")
    data = load(tmp_path, skip_corrupt=True)
    assert data.columns["caption"] == ["caption 0", "caption 3"]
    assert data.notes == ("3 unreadable pictures were left out, first '1.png'.",)
    for i, k in enumerate((0, 3)):
        with Image.open(tmp_path / f"{k}.png") as picture:
            assert np.array_equal(data.x[i].permute(1, 2, 0).numpy(), np.asarray(picture))
    assert load(**data.spec).fingerprint == data.fingerprint


def test_at_most_five_bad_files_are_listed_and_none_left_is_an_error(tmp_path):
    for i in range(7):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"7 of 7 .*0\.png .*4\.png [^;]*; \.\.\.\. Repair") as caught:
        load(tmp_path)
    assert len(caught.value.values["files"]) == 7
    assert "5.png" not in str(caught.value)
    with pytest.raises(DataError, match=r"None is left\."):
        load(tmp_path, skip_corrupt=True)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for name, side in (("large", 10_000), ("huge", 100_000)):  # Pillow itself would only warn of the first
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / f"{name}.png").write_bytes(body)
    with pytest.raises(
        DataError, match=r"2 of 2 .*huge\.png \(more than 89478485 pixels, PIL\.Image\.MAX_IMAGE_PIXELS"
    ):
        load(tmp_path)


def test_a_folder_or_file_without_permission_is_named(tmp_path, monkeypatch):
    paint(tmp_path / "sub" / "a.png")

    def scandir(path, real=os.scandir):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"The folder .*sub cannot be read: Permission denied"):
        load(tmp_path)
    monkeypatch.undo()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module.Image, "open", refuse)
    with pytest.raises(DataError, match=r"sub/a\.png \(Permission denied\)"):
        load(tmp_path)


def test_a_file_is_no_folder_and_a_missing_path_is_said_to_be_missing(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.zip is neither a folder of pictures nor a \.npy or \.npz file"):
        load(tmp_path / "a.zip")
    with pytest.raises(DataError, match=r"There is no file or folder .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"a\.zip is not a folder"):
        module.load_folder(tmp_path / "a.zip", load("digits").about.recipe)


def test_a_bar_is_shown_for_many_pictures_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    monkeypatch.setattr(module, "_BAR_FROM", 2)
    load(tmp_path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert values(load(tmp_path)) == [0, 1, 2]
    assert "reading pictures" in capsys.readouterr().err


def test_options_that_a_folder_cannot_obey_are_refused(classes):
    with pytest.raises(OptionError, match="range is only for arrays"):
        load(classes, range=(0, 1))
    for path in list(classes.rglob("*.png")):
        path.with_suffix(".txt").write_text("words")
    with pytest.raises(ConditionError, match="holds text"):
        load(classes, conditions=["caption"])


def test_subfolders_named_by_numbers_keep_their_order(tmp_path):
    for name in ("10", "2", "0"):
        paint(tmp_path / name / "a.png", int(name))
    data = load(tmp_path)
    assert data.class_names == ("0", "2", "10")
    assert [int(data.class_names[i]) for i in data.columns["label"]] == values(data)
