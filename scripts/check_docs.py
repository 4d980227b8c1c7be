"""Whether a built site stands alone: nothing that a page loads comes from elsewhere, and every picture is there.

`python scripts/check_docs.py docs/_build/html`. Links that a reader may follow are free to go anywhere.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SRC = {"audio", "embed", "iframe", "img", "script", "source", "video"}
RELS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "manifest"}
CSS = re.compile(r"(?:@import\s+(?:url\()?|url\()\s*[\"']?(?=(?:https?:)?//)([^\"')\s]+)")


class Loads(HTMLParser):
    """Collects what a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember addresses of scripts, pictures, styles and frames."""
        given = dict(attrs)
        address = given.get("src") if tag in SRC else None
        if tag == "link" and RELS & set((given.get("rel") or "").split()):
            address = given.get("href")
        if address:
            self.found.append(address)
        self.found += CSS.findall(given.get("style") or "")


def complaints(root: Path) -> Iterator[str]:
    """What is wrong with the site, a line each."""
    pages = sorted(root.rglob("*.html"))
    if not pages:
        yield f"{root} has no pages. Build them first: make docs."
    for page in pages:
        parser = Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        for address in parser.found:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https") or (parts.netloc and parts.scheme != "data"):
                yield f"{page.relative_to(root)} loads {address}"
            elif parts.scheme == "" and not (page.parent / unquote(parts.path)).exists():
                yield f"{page.relative_to(root)} misses {address}"
    for sheet in sorted(root.rglob("*.css")):
        yield from (f"{sheet.relative_to(root)} loads {a}" for a in CSS.findall(sheet.read_text(encoding="utf-8")))


def main(arguments: list[str]) -> int:
    """1 if there are complaints."""
    if len(arguments) != 1:
        print("Usage: check_docs.py FOLDER", file=sys.stderr)
        return 2
    root = Path(arguments[0])
    found = list(complaints(root))
    for line in found[:50]:
        print(line)
    verdict = f"{len(found)} complaints." if found else "nothing is loaded from elsewhere."
    print(f"{root}: {len(list(root.rglob('*.html')))} pages, {verdict}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
