"""A command is a function call here: arguments in, exit code, standard output and standard error out."""

from typing import NamedTuple

import pytest

from rheos.cli import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def rheos(capsys):
    def run(*words: object) -> Result:
        capsys.readouterr()
        code = main([str(w) for w in words])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A run of two steps on a few digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    words = ["train", "--data", "digits", "--out", str(folder), "--steps", "2"]
    code = main([*words, "--set", "data.limit=200", "options.batch=8", "options.sample_every=0", "field.net.width=8"])
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def moons_run(tmp_path_factory):
    """A run of two steps in the plane."""
    folder = tmp_path_factory.mktemp("runs") / "moons"
    code = main(["train", "--data", "moons", "--out", str(folder), "--steps", "2", "--set", "data.limit=100"])
    assert code == 0
    return folder
