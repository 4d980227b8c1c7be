import pytest

from rheos.claims import Figure, Record, page
from rheos.claims.checkout import root
from rheos.claims.ledger import read_records, write_page
from rheos.core.errors import CheckpointError


def record(slug="wcfm", value=0.2):
    figures = (Figure("a / b", value, "<=", 0.35, (value - 0.1, value + 0.1)), Figure("c", 1.0, ">=", 1.0))
    return Record(slug, "A statement.", figures, (0, 1), 61.0, 2, "cpu", {"torch": "2"}, "abc", ("A note.",))


def test_the_page_shows_statement_figures_threshold_verdict_and_circumstances():
    text = page({"wcfm": record()}, ["wcfm"])
    assert "| [wcfm](#wcfm) | holds | 2 of 2 | 0 | 2 | 61 | 2 | abc |" in text
    assert "| a / b | 0.2 | 0.1 to 0.3 | ≤ 0.35 | yes |" in text
    assert "| c | 1 |  | ≥ 1 | yes |" in text
    assert "A statement." in text
    assert "- A note." in text
    assert "![What was measured for wcfm](pictures/claims/wcfm.png)" in text
    assert "Seeds 0, 1; 61 s on 2 cores (cpu); commit abc; torch 2." in text
    assert "https://arxiv.org/abs/2507.22270" in text


def test_a_claim_that_fails_is_shown_as_failing():
    text = page({"wcfm": record(value=0.9)})
    assert "**does not hold**" in text
    assert "| a / b | 0.9 | 0.8 to 1 | ≤ 0.35 | **no** |" in text


def test_a_verdict_says_where_the_threshold_lies_within_the_noise():
    assert "| a / b | 0.3 | 0.2 to 0.4 | ≤ 0.35 | yes, within the noise |" in page({"wcfm": record(value=0.3)})
    text = page({"wcfm": record(value=0.4)})
    assert "| a / b | 0.4 | 0.3 to 0.5 | ≤ 0.35 | **no**, within the noise |" in text
    assert "| **does not hold** | 1 of 2 | 1 | 2 |" in text


def test_the_page_is_a_function_of_the_records_alone(tmp_path):
    records = {"wcfm": record(), "principles": record("principles")}
    assert page(records) == page(dict(reversed(records.items())))
    for one in records.values():
        one.save(tmp_path / "claims" / f"{one.slug}.json")
    first = write_page(tmp_path).read_bytes()
    assert write_page(tmp_path).read_bytes() == first
    assert first.decode() == page(read_records(tmp_path / "claims"))


def test_a_file_that_is_no_record_is_refused(tmp_path):
    (tmp_path / "wcfm.json").write_text('{"slug": "wcfm"}')
    with pytest.raises(CheckpointError, match=r"wcfm\.json is no record of a claim"):
        read_records(tmp_path)


@pytest.mark.skipif(root() is None, reason="the committed page is in the source tree")
def test_the_committed_page_is_the_one_that_the_committed_records_make():
    here = root()
    assert here is not None
    pictures = [p.stem for p in (here / "docs" / "pictures" / "claims").glob("*.png")]
    made = page(read_records(here / "claims"), pictures)
    assert (here / "docs" / "claims.md").read_text(encoding="utf-8") == made, "run: python -m rheos.claims"
