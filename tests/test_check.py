"""The patterns of `scripts/check` find what they should and let pass what they should."""

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parent.parent / "scripts" / "check"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = spec_from_loader("check", SourceFileLoader("check", str(PATH)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "parts",  # in pieces, or this file would be found
    [
        ("-----BEGIN RSA ", "PRIVATE KEY-----"),
        ("AK", "IA" + "ABCDEFGH12345678"),
        ("gh", "p_" + "a1" * 18),
        ("h", "f_" + "Ab" * 17),
        ("s", "k-" + "a1b2" * 8),
        ("pass", 'word = "' + "x" * 20 + '"'),
        ("https://me:", "secret@host/"),
    ],
)
def test_secrets_are_found(check: ModuleType, parts: tuple[str, str]) -> None:
    assert check.SECRETS.search("".join(parts))


@pytest.mark.parametrize(
    "line",
    [
        "token = tokens[0]",
        "https://arxiv.org/abs/2510.21890",
        'secret: "no"',
        "hf:someone/pictures",
        "a mask-" + "x" * 30,
    ],
)
def test_ordinary_lines_hold_no_secrets(check: ModuleType, line: str) -> None:
    assert not check.SECRETS.search(line)


def test_machine_paths_are_found_and_other_paths_are_not(check: ModuleType) -> None:
    for name in ("work", "tmp", "root", "home"):
        assert check.MACHINE.search(f"see /{name}/x")
    for line in ("docs/home/x", "https://example.org/work/x", "runs/tour/report.html", "./tmp/x"):
        assert not check.MACHINE.search(line)


def test_a_functions_length_leaves_its_docstring_out(check: ModuleType) -> None:
    import ast

    source = 'def f():\n    """One.\n\n    Two.\n    """\n    return 1\n\n\ndef g():\n    return 2\n'
    assert sorted(check.functions(ast.parse(source))) == [(2, "f"), (2, "g")]


def test_an_unknown_check_is_refused_with_the_known_ones(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["lnit"]) == 2
    assert "Unknown check lnit; there are: lint, format" in capsys.readouterr().err
