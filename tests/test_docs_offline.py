"""The check that the site loads nothing from elsewhere (`make docs` runs it on the built site) finds what it should."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def check_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "scripts" / "check_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<script src="//cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="http://fonts.example/x.css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<img src="https://example/x.png">',
        '<p style="background: url(https://example/x.png)">',
        "<iframe src='https://example/'></iframe>",
    ],
)
def test_whatever_a_page_would_load_from_elsewhere_is_found(check_docs: ModuleType, tmp_path: Path, html: str) -> None:
    (tmp_path / "index.html").write_text(f"<html>{html}</html>")
    assert [line for line in check_docs.complaints(tmp_path) if line.startswith("index.html loads ")]


def test_a_sheet_that_imports_from_elsewhere_is_found(check_docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html></html>")
    (tmp_path / "a.css").write_text(
        '@import "https://fonts.example/x.css"; p { background: url(data:image/png;base64,x) }'
    )
    assert list(check_docs.complaints(tmp_path)) == ["a.css loads https://fonts.example/x.css"]


def test_links_that_a_reader_follows_and_files_of_the_site_are_fine(check_docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    page = '<a href="https://example/">out</a><img src="x.png?v=1"><img src="data:image/png;base64,x">'
    (tmp_path / "index.html").write_text(page)
    assert list(check_docs.complaints(tmp_path)) == []


def test_a_missing_picture_and_an_empty_site_are_found(check_docs: ModuleType, tmp_path: Path) -> None:
    assert "has no pages" in "".join(check_docs.complaints(tmp_path))
    (tmp_path / "index.html").write_text('<img src="x.png">')
    assert list(check_docs.complaints(tmp_path)) == ["index.html misses x.png"]
