"""Pictures and pages."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from rheos.core.errors import ShapeError
from rheos.show import (
    Page,
    beside,
    curves,
    figure_png,
    grid,
    png,
    progress_bar,
    save_png,
    scatter,
    trajectories,
    upscale,
)


def test_a_grid_holds_each_picture_in_its_cell():
    pictures = torch.arange(5, dtype=torch.uint8).mul(10).reshape(5, 1, 1, 1).expand(5, 1, 3, 4)
    sheet = np.asarray(grid(pictures, columns=2, gap=1, background=255))
    assert sheet.shape == (3 * 4 + 1, 2 * 5 + 1)
    for k in range(5):
        top, left = 1 + (k // 2) * 4, 1 + (k % 2) * 5
        assert (sheet[top : top + 3, left : left + 4] == 10 * k).all()
    assert (sheet[9:12, 6:10] == 255).all()


def test_enlarging_repeats_pixels():
    small = grid(torch.randint(0, 255, (1, 3, 4, 4), dtype=torch.uint8), gap=0)
    big = np.asarray(upscale(small, 12))
    assert big.shape == (12, 12, 3)
    assert (big[::3, ::3] == np.asarray(small)).all()


def test_a_png_keeps_its_text(tmp_path):
    image = grid(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    save_png(tmp_path / "deep" / "a.png", image, {"seed": "7"})
    assert Image.open(tmp_path / "deep" / "a.png").text["seed"] == "7"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_only_uint8_pictures_make_a_grid():
    with pytest.raises(ShapeError, match="uint8 pictures"):
        grid(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ShapeError, match=r"\(1, 2, 4, 4\)"):
        grid(torch.zeros(1, 2, 4, 4, dtype=torch.uint8))


def test_figures_become_png_files_of_the_asked_panels():
    path = torch.linspace(0, 1, 5)[:, None, None] * torch.ones(5, 7, 2)
    one = Image.open(io.BytesIO(figure_png(trajectories({"a": path}))))
    two = Image.open(io.BytesIO(figure_png(trajectories({"a": path, "b": path}))))
    assert two.width == 2 * one.width
    assert len(scatter({"a": path[0]}).axes) == 1
    assert curves({"a": ([1, 2], [0.1, 0.2])}, "x", "y").axes[0].get_xscale() == "log"


def test_a_page_is_self_contained_and_escapes_what_it_is_given(tmp_path):
    picture = png(beside({"x": grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))}))
    page = Page("a < b", "lead").heading("h").text("one\n\ntwo <script>").code("x = 1").picture(picture, 'say "hi"')
    text = page.table(["n", "v"], [["a&b", "1"]]).footer("end").save(tmp_path / "r.html").read_text()
    assert "<script>" not in text
    assert "a &lt; b" in text
    assert "a&amp;b" in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("data:image/png;base64,") == 1


def test_a_bar_is_silent_unless_asked(capsys):
    with progress_bar("work", 3, False) as advance:
        advance(1, 3)
    assert capsys.readouterr().err == ""
    with progress_bar("work", 3, True) as advance:
        advance(3, 3)
    assert "3/3" in capsys.readouterr().err
