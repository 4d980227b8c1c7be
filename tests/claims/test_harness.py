import json
import subprocess
from dataclasses import dataclass, field

import pytest

from rheos.claims import Figure, Outcome, checkout, load_claim, reproduce
from rheos.core.errors import OptionError, RunError, UnknownOptionError


@dataclass
class Fake:
    """A claim that measures what it is told."""

    value: float = 0.5
    slug: str = "fake"
    statement: str = "Half is at most one."
    calls: list = field(default_factory=list)

    def run(self, quick, seeds, progress):
        self.calls.append((quick, seeds))
        progress("Measuring.")
        return Outcome((Figure("half", self.value, "<=", 1.0),), ("A note.",), picture=b"png")


def test_a_full_run_keeps_record_and_picture(tmp_path):
    said = []
    record = reproduce(Fake(), out=tmp_path, progress=said.append)
    assert record.holds
    assert record.seeds == (0, 1, 2)
    assert json.loads((tmp_path / "claims" / "fake.json").read_text()) == record.to_dict()
    assert (tmp_path / "docs" / "pictures" / "claims" / "fake.png").read_bytes() == b"png"
    assert said == ["Measuring."]
    assert record.notes[0].startswith("Measured on ")
    assert record.notes[1] == "A note."


def test_a_quick_run_writes_nothing_and_leaves_the_record_alone(tmp_path):
    reproduce(Fake(), out=tmp_path)
    before = (tmp_path / "claims" / "fake.json").read_bytes()
    record = reproduce(Fake(value=2.0), quick=True, out=tmp_path)
    assert not record.holds
    assert record.seeds == (0,)
    assert (tmp_path / "claims" / "fake.json").read_bytes() == before
    assert record.notes[0].startswith("Quick run")


def test_a_claim_that_fails_is_recorded_as_failing(tmp_path):
    reproduce(Fake(value=2.0), out=tmp_path)
    assert json.loads((tmp_path / "claims" / "fake.json").read_text())["holds"] is False


def test_the_claim_gets_the_seeds_that_were_asked_for(tmp_path):
    claim = Fake()
    assert reproduce(claim, seeds=range(2), quick=True).seeds == (0, 1)
    assert claim.calls == [(True, (0, 1))]


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_be_some_and_different(seeds):
    with pytest.raises(OptionError, match="seeds must be at least one, and different"):
        reproduce(Fake(), seeds=seeds)


def test_a_planned_method_has_no_claim_to_run():
    with pytest.raises(OptionError, match=r"arflow.*planned and has no claim yet"):
        load_claim("arflow")


def test_an_unknown_method_is_refused_before_any_work():
    with pytest.raises(UnknownOptionError, match="no method 'nothing'"):
        reproduce("nothing")


def test_a_record_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "claims").write_text("a file where a folder should be")
    with pytest.raises(RunError, match=r"fake\.json cannot be written"):
        reproduce(Fake(), out=tmp_path)


def test_the_commit_says_whether_the_source_differs_from_it(tmp_path):
    assert checkout.commit(tmp_path) == "unknown"

    def git(*arguments):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "one", "--no-verify")
    clean = checkout.commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "src" / "a.py").write_text("2")
    assert checkout.commit(tmp_path) == clean + "+"


def test_versions_name_python_and_torch():
    assert {"python", "torch", "numpy"} <= checkout.versions().keys()
    assert checkout.cores() >= 1
