"""From the docstrings of this house, Google sections around Markdown prose, to the reStructuredText that Sphinx reads.

Prose is full of formulas: `$x_t$`, |x|, (B, *shape). So dollars become the math role, and characters that mean
something to reStructuredText only are escaped. Code, examples and `*emphasis*` stay.
"""

import re
from typing import Any

__all__ = ["convert", "prose"]

_TOKEN = re.compile(
    r"(?P<code>`+[^`]+`+)"
    r"|\$\$?(?P<math>[^$]+)\$\$?"
    r"|(?P<emphasis>(?<![\w*])\*[^*\s]+(?: [^*\s]+)*\*(?![\w*]))"
    r"|(?P<special>\*|\||(?<=\w)_(?!\w))"
)


def _replace(match: re.Match[str]) -> str:
    if match["math"]:
        return f":math:`{match['math'].strip()}`"
    if match["special"]:
        return "\\" + match["special"]
    code = match["code"]
    return code if code is None or code.startswith("``") else f"`{code}`" if code.count("`") == 2 else code


def prose(text: str) -> str:
    """One paragraph of prose.

    Example:
        >>> print(prose("`x` has norm |x| and follows $x_t$ along (B, *d), *not* x_."))
        ``x`` has norm \\|x\\| and follows :math:`x_t` along (B, \\*d), *not* x\\_.
    """
    return _TOKEN.sub(lambda m: m.group() if m["emphasis"] else _replace(m), text)


def _paragraphs(lines: list[str]) -> list[list[str]]:
    """Cut at blank lines, which stay as empty paragraphs."""
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            parts[-1].append(line)
        else:
            parts += [[], []]
    return parts


def convert(lines: list[str], attribute: bool = False) -> list[str]:
    """All lines of a docstring.

    Args:
        lines: As `inspect.getdoc` gives them.
        attribute: Whether it describes a value: there napoleon would read "what: why" as a type and its description,
            which an empty comment in front prevents.
    """
    out: list[str] = ["..", ""] if attribute else []
    for part in _paragraphs(lines):
        out += _convert(part) if part else [""]
    return out


def _convert(part: list[str]) -> list[str]:
    first = part[0].strip()
    for i, line in enumerate(part):
        if line.lstrip().startswith(">>>"):  # from here on it is an example
            return [*_convert(part[:i]), *part[i:]] if i else part
    indent = part[0][: len(part[0]) - len(part[0].lstrip())]
    if first.startswith("$$") and part[-1].rstrip().endswith("$$"):
        formula = " ".join(line.strip() for line in part).strip("$ ")
        return [f"{indent}.. math::", "", f"{indent}   {formula}"]
    if first.startswith("Reference:"):
        words = " ".join(line.strip() for line in part).removeprefix("Reference:")
        return [f"{indent}**Reference:** {prose(words.strip())}"]
    return prose("\n".join(part)).split("\n")


def process(_app: object, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """The hook of autodoc; it runs before napoleon's."""
    lines[:] = convert(list(lines), what in ("attribute", "data", "property"))


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
