"""The tour, in miniature: every chapter, the report, and going on after an interruption."""

import json

import numpy as np
import pytest
from PIL import Image

from rheos.core.errors import DataError, OptionError, UnknownOptionError
from rheos.tour import TourOptions, run_tour

SMALL = {"steps": 3, "pairs": 12, "reflow_steps": 2, "distil_steps": 2, "plane_steps": 3, "samples": 20}


def test_the_report_is_one_file_with_pictures_of_every_stage_and_the_table(tmp_path):
    lines = []
    result = run_tour(TourOptions(out=tmp_path / "tour", size=16, **SMALL), say=lines.append, progress=False)
    page = result.report.read_text()
    assert [f"<h2>{n}." in page for n in "1234"] == [True] * 4
    assert page.count("data:image/png;base64,") == 4 + 5 + 1 + 1
    assert "http://" not in page
    assert "https://" not in page
    flows = [(r["flow"], r["steps"], r["evaluations"]) for r in result.rows]
    guided = [("learned", s, 2.0 * s) for s in (1, 2, 4, 20)]
    short = [(name, s, float(s)) for name in ("straightened", "distilled") for s in (1, 2)]
    assert flows == [*guided, *short]
    assert all(r["seconds"] > 0 for r in result.rows)
    assert page.count("<table>") == 2
    assert f"rheos distill {tmp_path / 'tour' / 'flow'} --evaluations 1,2,4 --guidance 1.5" in page
    assert json.loads((tmp_path / "tour" / "tour.json").read_text())["rows"][0]["fake"] == 20
    assert any("Straightening" in line for line in lines)
    # a second tour finds its runs finished, and tells the same story
    again = run_tour(TourOptions(out=tmp_path / "tour", size=16, **SMALL), progress=False)
    assert again.rows == result.rows


def test_a_folder_of_the_users_pictures_takes_the_same_tour(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        for k in range(20):
            pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / kind / f"{k}.png")
    options = TourOptions(data=str(tmp_path / "mine"), out=tmp_path / "tour", size=16, **SMALL)
    result = run_tour(options, progress=False)
    assert result.rows[0]["recognised"] is None
    assert result.rows[0]["features"] == "emoji"


def test_bad_data_and_options_stop_before_anything_is_written(tmp_path):
    with pytest.raises(UnknownOptionError, match="did you mean 'mnist5k'"):
        run_tour(TourOptions(data="mnist5", out=tmp_path / "tour"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        run_tour(TourOptions(data=str(tmp_path / "empty"), out=tmp_path / "tour"))
    with pytest.raises(OptionError, match="pairs must be at least 1"):
        TourOptions(pairs=0)
    assert not (tmp_path / "tour").exists()


def test_the_chapter_on_captions_is_told_when_it_is_asked_for(tmp_path):
    result = run_tour(TourOptions(out=tmp_path / "tour", size=16, captions=2, **SMALL), progress=False)
    page = result.report.read_text()
    assert "<h2>5. Words into pictures" in page
    assert page.count("data:image/png;base64,") == 4 + 5 + 1 + 1 + 4
    with pytest.raises(OptionError, match="captions must be 0"):
        TourOptions(captions=-1)
