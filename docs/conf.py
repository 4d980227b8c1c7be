"""The site: Markdown pages, a reference made from the package, formulas without a network."""

import sys
import warnings
from pathlib import Path
from typing import Any

from sphinx.deprecation import RemovedInSphinx10Warning

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_site"))

import reference  # noqa: E402

import rheos  # noqa: E402

project = "rheos"
author = "the rheos authors"
copyright = "2026, the rheos authors"
version = release = rheos.__version__

extensions = [
    "docstrings",  # ours, in _site
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_vendor", "_site"]
default_role = "code"

html_theme = "furo"
html_title = "rheos"
html_static_path = ["_vendor"]
html_show_sourcelink = False
html_copy_source = False

# Formulas come from our own folder, never from a server; no menu, which would fetch more of MathJax.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {
    "tex": {"inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]]},
    "options": {"enableMenu": False},
}

# Annotations go into the list of arguments.
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
typehints_defaults = "comma"
always_use_bars_union = True

# A broken link of ours fails the build. Annotations name private and foreign types too, which are text: the links to
# other projects would need their inventories, and inventories are downloads.
nitpick_ignore_regex = [(r"py:class", r".*"), (r"py:.*", r"(?!rheos\.).*")]
suppress_warnings = [
    "config.cache",  # typehints_formatter is a function, which the cache of the configuration cannot hold
    "sphinx_autodoc_typehints.forward_reference",
    "sphinx_autodoc_typehints.guarded_import",
]
warnings.filterwarnings("ignore", category=RemovedInSphinx10Warning)  # raised by sphinx-autodoc-typehints


def typehints_formatter(annotation: Any, _config: object) -> str | None:
    """Shapes as the source has them: Float[Tensor, "b d"]."""
    if hasattr(annotation, "dim_str") and hasattr(annotation, "array_type"):
        kind = annotation.__name__.split("[")[0]
        return f'``{kind}[{annotation.array_type.__name__}, "{annotation.dim_str}"]``'
    return None


def make_pages(_app: object) -> None:
    """The pages that are made and not written: the reference, and the ledger of claims."""
    from rheos.claims import ledger

    reference.make(HERE / "api")
    pictures = [p.stem for p in (HERE / "pictures" / "claims").glob("*.png")]
    reference.write(HERE / "claims.md", ledger.page(ledger.read_records(HERE.parent / "claims"), pictures))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", make_pages)
