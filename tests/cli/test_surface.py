"""The verbs and flags are a promise: growth goes into configurations, and a change here is a decision."""

import subprocess
import sys
from dataclasses import fields
from importlib import import_module

import pytest

from rheos.cli import VERBS, main

SURFACE = {
    "tour": [
        *["data", "out", "size", "steps", "pairs", "reflow_steps", "distil_steps", "plane_steps", "samples"],
        *["guidance", "captions", "seed", "json"],
    ],
    "train": ["data", "out", "steps", "size", "config", "set", "resume", "dry_run", "json"],
    "sample": [
        *["run", "n", "steps", "solver", "grid", "shift", "guidance", "temperature", "label", "caption", "given"],
        *["seed", "out", "format", "batch", "json"],
    ],
    "label": "run pictures steps draws solver seed out batch json".split(),  # noqa: SIM905
    "eval": ["run", "n", "steps", "solver", "guidance", "temperature", "seed", "batch", "json"],
    "tune": "run evaluations n solvers grids guidance temperature label caption given seed out json".split(),  # noqa: SIM905
    "distill": "run evaluations methods budget guidance n prompts seed out json".split(),  # noqa: SIM905
    "reproduce": ["slug", "quick", "seeds", "out", "json"],
    "list": ["what", "json"],
    "bench": ["names", "json"],
}


def test_the_verbs_are_these():
    assert list(VERBS) == list(SURFACE)


@pytest.mark.parametrize("verb", SURFACE)
def test_the_flags_are_these(verb):
    options = import_module(f"rheos.commands.{verb}").Options
    assert [f.name for f in fields(options)] == SURFACE[verb]


def test_the_options_of_the_tour_are_the_ones_of_the_library():
    from rheos.commands.tour import Options
    from rheos.tour import TourOptions

    ours = {f.name: f.default for f in fields(Options) if f.name != "json"}
    assert ours == {f.name: f.default for f in fields(TourOptions)}


@pytest.mark.parametrize("verb", SURFACE)
def test_the_help_of_every_verb_explains_each_flag_and_has_an_example(verb, rheos):
    result = rheos(verb, "--help")
    assert result.code == 0
    assert result.err == ""
    assert f"Example: rheos {verb}" in result.out
    for name in SURFACE[verb]:
        assert name.replace("_", "-") in result.out.lower() or name.upper() in result.out
    assert "[STR" not in result.out.splitlines()[0]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_has_a_line_a_verb(words, rheos):
    result = rheos(*words)
    assert result.code == 0
    for verb, what in VERBS.items():
        assert f"  {verb} " in result.out
        assert what in result.out


def test_help_of_a_verb_is_its_help(rheos):
    assert rheos("help", "list").out == rheos("list", "--help").out


def test_the_overview_and_the_helps_load_no_torch_and_take_no_time():
    code = (
        "import sys, time; begun = time.perf_counter(); from rheos.cli import main\n"
        "main(['--help']); spent = time.perf_counter() - begun\n"
        "assert 'tyro' not in sys.modules and 'rich' not in sys.modules\n"
        f"for verb in {list(SURFACE)}: main([verb, '--help'])\n"
        "assert 'torch' not in sys.modules\n"
        "main(['list', '--json'])\n"
        "assert 'torch' not in sys.modules\n"
        "print(f'spent {spent}', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stderr.split("spent")[1]) < 0.3


def test_the_version_is_the_package_s(rheos):
    from rheos import __version__

    assert rheos("--version").out == f"rheos {__version__}\n"


def test_python_m_rheos_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "rheos", "lits"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean list" in done.stderr
    assert main(["--version"]) == 0
