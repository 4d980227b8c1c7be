import pytest

from rheos.core import errors
from rheos.core.errors import RheosError, UnknownOptionError, check_choice, missing_extra

KINDS = [
    value for name in errors.__all__ if isinstance(value := getattr(errors, name), type) and value is not RheosError
]
EXPECTED = {
    "CheckpointError": ValueError,
    "ConditionError": ValueError,
    "DataError": ValueError,
    "MissingExtraError": ImportError,
    "NonFiniteError": ArithmeticError,
    "OptionError": ValueError,
    "RunError": OSError,
    "ShapeError": ValueError,
    "SourceNotGaussianError": ValueError,
    "StepSizeError": ArithmeticError,
    "TimeError": ValueError,
    "UnknownOptionError": LookupError,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_each_error_is_a_rheos_error_and_the_builtin_that_a_caller_expects(kind):
    assert issubclass(kind, RheosError)
    assert issubclass(kind, EXPECTED[kind.__name__])
    error = kind("what came", row=3)
    assert str(error) == "what came"
    assert error.values == {"row": 3}


def test_a_known_choice_passes_in_silence():
    assert check_choice("solver", "heun", ["euler", "heun"]) is None


def test_a_misspelt_choice_is_answered_with_near_names_and_all_names():
    with pytest.raises(UnknownOptionError, match=r"solver 'huen' is unknown; did you mean 'heun'\? Known: euler, heun"):
        check_choice("solver", "huen", ["euler", "heun"])


def test_a_choice_unlike_any_other_is_answered_without_a_guess():
    with pytest.raises(UnknownOptionError, match=r"path 3 is unknown\. Known: a, b\.") as caught:
        check_choice("path", 3, ["a", "b"])
    assert caught.value.values["near"] == []


def test_a_missing_extra_names_the_command_that_installs_it():
    error = missing_extra("Video", "av", "video")
    assert isinstance(error, ImportError)
    assert "pip install 'rheos[video]'" in str(error)
