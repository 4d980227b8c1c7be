"""A report as one self-contained HTML file: pictures inside, nothing fetched."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from rheos.core.files import write_whole

__all__ = ["Page"]

STYLE = """
:root { color-scheme: light; --ink: #1b2a41; --soft: #5c6b7e; --line: #e3e6ea; --sea: #1f7a8c; }
body { margin: 0; background: #fbfbfa; color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 880px; margin: 0 auto; padding: 48px 24px 96px; }
h1 { font-size: 2.1rem; margin: 0 0 .2em; letter-spacing: -.01em; }
h2 { margin: 2.6em 0 .4em; font-size: 1.35rem; border-top: 1px solid var(--line); padding-top: 1.2em; }
p { max-width: 68ch; } .lead { color: var(--soft); font-size: 1.1rem; margin-top: 0; }
figure { margin: 1.2em 0; } figcaption { color: var(--soft); font-size: .9rem; margin-top: .4em; max-width: 72ch; }
img { max-width: 100%; border: 1px solid var(--line); border-radius: 4px; background: #fff; }
.sharp { image-rendering: pixelated; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .4em .9em; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 600; }
pre { background: #f1f3f4; padding: .9em 1.1em; border-radius: 4px; overflow-x: auto; font-size: .86rem; }
footer { margin-top: 4em; color: var(--soft); font-size: .85rem; }
"""


class Page:
    """Built top to bottom; every method returns the page.

    Args:
        title: Heading and window title.
        lead: One sentence below it.

    Example:
        >>> page = Page("A run").text("It went well.").table(["steps", "distance"], [["1", "2.5"]])
        >>> "<td>2.5</td>" in page.html()
        True
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{html.escape(lead)}</p>')

    def heading(self, text: str) -> "Page":
        """A chapter."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")
        return self

    def text(self, text: str) -> "Page":
        """A paragraph; a blank line begins another."""
        self._parts += [f"<p>{html.escape(p.strip())}</p>" for p in text.split("\n\n") if p.strip()]
        return self

    def code(self, text: str) -> "Page":
        """Lines of code."""
        self._parts.append(f"<pre>{html.escape(text.strip())}</pre>")
        return self

    def picture(self, png: bytes, caption: str = "", width: int | None = None, sharp: bool = False) -> "Page":
        """A PNG, embedded.

        Args:
            png: Its bytes.
            caption: Below it, and read to those who cannot see it.
            width: In pixels; its own unless given.
            sharp: Whether enlarged pixels stay square.
        """
        data = base64.b64encode(png).decode()
        size = f' width="{width}"' if width else ""
        kind = ' class="sharp"' if sharp else ""
        self._parts.append(
            f'<figure><img{kind}{size} alt="{html.escape(caption, quote=True)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
        return self

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> "Page":
        """A table; the first column is a name, the others are numbers."""
        top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        self._parts.append(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")
        return self

    def footer(self, text: str) -> "Page":
        """Small print."""
        self._parts.append(f"<footer>{html.escape(text)}</footer>")
        return self

    def html(self) -> str:
        """The whole document."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head>"
            f"<body><main>{''.join(self._parts)}</main></body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write under a temporary name, then rename."""
        return write_whole(path, self.html())
