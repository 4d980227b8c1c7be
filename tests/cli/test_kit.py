import json
import math

import pytest

from rheos.commands import kit
from rheos.core.errors import OptionError


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["--set", "a=1", "--set", "b=2"], ["--set", "a=1", "b=2"]),
        (["--set", "a=1", "b=2", "--json"], ["--json", "--set", "a=1", "b=2"]),
        (["--set=a=1", "--out", "x"], ["--out", "x", "--set", "a=1"]),
        (["--out", "x"], ["--out", "x"]),
        (["--set"], []),
    ],
)
def test_a_repeatable_flag_may_be_given_in_both_ways(words, joined):
    assert kit.gather(words, "--set") == joined


def test_numbers_are_read_in_their_order():
    assert kit.numbers("20,1", "steps") == [20, 1]
    with pytest.raises(OptionError, match="steps are whole numbers of at least 1"):
        kit.numbers("1,0", "steps")


def test_numbers_that_json_has_no_word_for_become_null(capsys):
    kit.emit({"a": math.nan, "b": [math.inf, 1.5], "c": ("x", None, True)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": ["x", None, True]}


def test_of_several_processes_the_first_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    kit.say("hello")
    kit.emit({})
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")


def test_a_table_shows_brackets_as_they_are(capsys):
    kit.table(("name", "value"), [("[red]a[/red]", "1")], caption="below")
    out = capsys.readouterr().out
    assert "[red]a[/red]" in out
    assert "below" in out
