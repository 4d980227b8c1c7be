"""Sets of the Hugging Face hub, through the optional package `datasets`; the network only when allowed."""

from dataclasses import replace
from importlib import import_module

from rheos.core.errors import DataError, OptionError, missing_extra
from rheos.data.arrays import load_arrays
from rheos.data.dataset import Data
from rheos.data.pictures import stack
from rheos.data.recipe import Recipe

__all__ = ["load_hub"]


def load_hub(name: str, recipe: Recipe) -> Data:
    """The training part of a hub set: its first picture column, its class column, and its text and number columns.

    Args:
        name: As on the hub, without "hf:".
        recipe: size, colour, limit and download are obeyed; a limit takes the first rows.

    Raises:
        OptionError: If downloading is not allowed.
        MissingExtraError: If `datasets` is not installed.
        DataError: If the set has no picture column.
    """
    if not recipe.download:
        raise OptionError(f"'hf:{name}' comes from the network, which rheos uses only when told: pass download=True.")
    try:
        datasets = import_module("datasets")
    except ImportError:
        raise missing_extra(f"The source 'hf:{name}'", "datasets", "hf") from None

    table = datasets.load_dataset(name, split="train")
    if recipe.limit is not None and recipe.limit < len(table):
        table = table.select(range(recipe.limit))
    kinds = {column: type(feature).__name__ for column, feature in table.features.items()}
    picture = next((c for c, kind in kinds.items() if kind == "Image"), None)
    if picture is None:
        raise DataError(
            f"'hf:{name}' has no picture column (its columns: {', '.join(kinds)}); save its arrays as .npz."
        )
    x, notes = stack(table[picture], recipe.size, recipe.colour)
    arrays: dict[str, object] = {"x": x}
    for column, kind in kinds.items():
        if kind == "ClassLabel":
            names = table.features[column].names
            arrays["label"] = [str(names[i]) for i in table[column]]
        elif kind == "Value" and column not in ("x", "label"):
            arrays["caption" if column == "text" else column] = list(table[column])
    data = load_arrays(arrays, recipe, name)
    return replace(data, about=replace(data.about, notes=(*notes, *data.notes)))
