"""An error is one sentence on standard error and an exit code; the traceback is there for those who ask."""

import subprocess
import sys

import pytest

from rheos import cli


def fails(result, code, text):
    assert result.code == code
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err.startswith("rheos: ")
    assert result.err.count("\n") == 1
    assert text in result.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["lst"], "no command 'lst'; did you mean list?"),
        (["zzz"], "Known: tour, train"),
        (["list", "--jsn"], "no option --jsn; did you mean --json?"),
        (["list", "metods"], "'metods'"),
        (["sample"], "Missing from rheos sample: RUN"),
        (["sample", "x", "--n", "many"], "--n: expected a whole number, got 'many'"),
        (["sample", "x", "--guidance", "big"], "--guidance: expected a number, got 'big'"),
        (["sample", "x", "--n", "0"], "--n and --batch must be at least 1"),
        (["sample", "x", "--solver", "huen"], "did you mean 'heun'"),
        (["sample", "nowhere"], "nowhere"),
        (["sample", "x", "--grid", "karas"], "did you mean 'karras'?"),
        (["sample", "x", "--grid", "sway:-3"], "takes one number, c, in [-1, 1.7519], got -3"),
        (["sample", "x", "--grid", "beta@3", "--shift", "2"], "has a shift already"),
        (["sample", "x", "--shift", "0"], "shift must be positive, got 0"),
        (["tune", "x", "--n", "3"], "--n must be at least 4"),
        (["tune", "x", "--evaluations", "4,0"], "--evaluations are whole numbers of at least 1"),
        (["tune", "x", "--solvers", "heun,huen"], "did you mean 'heun'"),
        (["tune", "x", "--grids", "uniform,beta:x"], "'x' is not a number"),
        (["tune", "nowhere"], "nowhere"),
        (["reproduce", "wcf"], "did you mean 'wcfm'"),
        (["reproduce", "arflow"], "planned and has no claim yet"),
        (["reproduce", "wcfm", "--seeds", "0"], "--seeds must be at least 1"),
        (["eval", "x", "--steps", "1,two"], "separated by commas, got '1,two'"),
        (["eval", "x", "--n", "3"], "--n must be at least 20"),
        (["train", "--data", "digits"], "--out runs/mine"),
        (["train", "--out", "x"], "There is no data to learn"),
        (["train", "--data", "digts", "--out", "x"], "did you mean 'digits'"),
        (["train", "--data", "digits", "--out", "x", "--set", "lr"], "path=value"),
        (["train", "--data", "digits", "--out", "x", "--set", "data.sise=8"], "did you mean 'size'?"),
        (["train", "--data", "digits", "--out", "x", "--set", "options.lrr=1"], "did you mean 'lr'?"),
        (["train", "--data", "digits", "--out", "x", "--set", "optons.lr=1"], "no part 'optons'"),
        (["train", "--data", "digits", "--out", "x", "--set", "step=1"], "did you mean 'steps'?"),
        (["train", "--data", "digits", "--out", "x", "--set", "steps=0"], "steps must be a whole number"),
        (["train", "--config", "nowhere.json", "--out", "x"], "no file nowhere.json"),
        (["bench", "smapling"], "did you mean 'sampling'"),
    ],
)
def test_bad_usage_is_one_sentence_that_says_the_way_out(words, text, rheos, tmp_path, monkeypatch):
    if words[0] == "bench":
        pytest.importorskip("flow_matching", reason="the benchmarks' harness names its peers")
    monkeypatch.chdir(tmp_path)
    fails(rheos(*words), cli.USAGE, text)
    assert list(tmp_path.iterdir()) == []


class Raises:
    def __init__(self, error):
        self.error = error

    def main(self, words):
        raise self.error


@pytest.fixture
def broken(monkeypatch, rheos):
    def run(error, *words):
        monkeypatch.setattr(cli, "import_module", lambda name: Raises(error))
        return rheos("list", *words)

    return run


def test_a_known_failure_on_the_way_has_a_code_of_its_own(broken):
    from rheos.core.errors import NonFiniteError

    fails(broken(NonFiniteError("The loss is NaN\nin step 3.")), cli.FAILED, "The loss is NaN in step 3.")


def test_bad_input_found_by_the_library_is_wrong_usage(broken):
    from rheos.core.errors import DataError

    fails(broken(DataError("No pictures.")), cli.USAGE, "No pictures.")


def test_a_full_disk_names_the_file(broken):
    fails(broken(OSError(28, "No space left on device", "a.png")), cli.FAILED, "No space left on device: a.png")


def test_too_little_memory_says_what_helps(broken):
    fails(broken(MemoryError()), cli.FAILED, "smaller batch")


def test_a_bug_of_ours_asks_to_be_reported(broken):
    fails(broken(KeyError("oops")), cli.FAILED, "--debug")


def test_debug_shows_the_traceback(broken):
    with pytest.raises(KeyError, match="oops"):
        broken(KeyError("oops"), "--debug")


def test_an_interruption_has_the_shell_s_code(broken):
    fails(broken(KeyboardInterrupt()), cli.INTERRUPTED, "Interrupted.")


def test_a_program_that_stops_itself_keeps_its_code(broken):
    assert broken(SystemExit(143)).code == 143


def test_several_processes_say_which_of_them_speaks(broken, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert broken(ValueError("x")).err.startswith("rheos (process 1): ")


def test_a_reader_that_went_away_is_no_traceback():
    code = (
        "import sys; from rheos import cli\n"
        "class Many:\n"
        "    def main(self, words):\n"
        "        for i in range(100000): print(i)\n"
        "        return 0\n"
        "cli.import_module = lambda name: Many()\n"
        "sys.exit(cli.main(['list']))"
    )
    line = f'"{sys.executable}" -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n"
    assert done.stderr == ""
    assert done.returncode == cli.NO_READER


def test_warnings_are_one_line_each(monkeypatch, rheos):
    import warnings

    class Warns:
        def main(self, words):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("half of the pairs are idle", RuntimeWarning, stacklevel=1)
            return 0

    monkeypatch.setattr(cli, "import_module", lambda name: Warns())
    show = warnings.showwarning
    result = rheos("list")
    assert result.code == 0
    assert warnings.showwarning is show
