"""What the package promises from outside: its names, what importing it costs, and that types travel with it."""

import json
import subprocess
import sys
from importlib import import_module, resources
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import rheos

HOME = Path(rheos.__file__).parent
ROOMS = [name for name in rheos.__all__ if name not in ("__version__", "load")]

OPTIONAL = (
    "IPython", "PIL", "accelerate", "av", "datasets", "diffusers", "einops", "matplotlib", "mlxtend", "ot", "pandas",
    "peft", "psutil", "pydantic", "rich", "safetensors", "scipy", "skimage", "sklearn", "tensorboard", "torchdiffeq",
    "torchvision", "tqdm", "trackio", "transformers", "tyro", "wandb",
)  # fmt: skip
"""Everything but torch, numpy and jaxtyping is imported where it is used."""


def _modules() -> list[str]:
    paths = sorted(p.relative_to(HOME.parent).with_suffix("") for p in HOME.rglob("*.py"))
    names = [".".join(p.parts).removesuffix(".__init__") for p in paths]
    return [name for name in names if not name.rsplit(".", 1)[-1].startswith("_")]


def _loaded_by(*lines: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after these lines."""
    program = "\n".join([*lines, "import json, sys; print(json.dumps(sorted(sys.modules)))"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout.splitlines()[-1]))


def _public(module: ModuleType) -> set[str]:
    """Names without an underscore in front that are no modules."""
    hooks = ("TYPE_CHECKING", "import_module")
    named = vars(module).items()
    return {n for n, v in named if not n.startswith("_") and not isinstance(v, ModuleType) and n not in hooks}


@pytest.mark.parametrize("name", _modules())
def test_a_modules_all_names_what_exists_once(name: str) -> None:
    module = import_module(name)
    if not _public(module):  # a folder of modules may say nothing
        return
    names = list(module.__all__)
    assert len(names) == len(set(names))
    assert [n for n in names if not hasattr(module, n)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_exports_every_public_name_that_it_imports(room: str) -> None:
    module = getattr(rheos, room)
    assert _public(module) - set(module.__all__) == set()


def test_importing_rheos_loads_not_even_torch() -> None:
    assert not _loaded_by("import rheos") & {"torch", "numpy", *OPTIONAL}


def test_all_rooms_together_load_torch_and_nothing_optional() -> None:
    rooms = ", ".join(f"rheos.{room}" for room in ROOMS)
    extra = _loaded_by(f"import {rooms}") - _loaded_by("import torch")
    assert {name for name in extra if name.split(".")[0] in OPTIONAL} == set()
    assert "rheos.core.field" in extra


def test_the_rooms_are_attributes_and_load_is_trains() -> None:
    assert set(rheos.__all__) <= set(dir(rheos))
    for room in ROOMS:
        assert getattr(rheos, room) is import_module(f"rheos.{room}")
    assert rheos.load is import_module("rheos.train").load


def test_an_unknown_room_is_an_attribute_error_that_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'smaple'; it has: .*sample, train"):
        rheos.smaple  # noqa: B018


def test_types_travel_with_the_package() -> None:
    assert resources.files("rheos").joinpath("py.typed").is_file()


def test_the_version_is_the_installed_ones() -> None:
    assert rheos.__version__ == version("rheos")
