"""`make claims`: run the claim of every method that works, one after another, and write the records and the ledger.

Arguments are passed on to `rheos reproduce`: `make claims CLAIMS=--quick` checks the directions in minutes. A claim
that does not hold is a result; only one that could not be run is a failure.
"""

import subprocess
import sys
from pathlib import Path

from rheos.claims import rows, write_page


def main(options: list[str]) -> int:
    """1 if some claim could not be run."""
    rheos = str(Path(sys.executable).parent / "rheos")
    slugs = [row["slug"] for row in rows() if row["state"] == "works"]
    codes = {slug: subprocess.run([rheos, "reproduce", slug, *options], check=False).returncode for slug in slugs}
    if "--quick" not in options:
        print(write_page(Path(__file__).resolve().parent.parent))
    for code, what in ((0, "hold"), (1, "do not hold")):
        print(f"{what}: {', '.join(slug for slug in slugs if codes[slug] == code) or 'none'}")
    broken = [slug for slug in slugs if codes[slug] not in (0, 1)]
    if broken:
        print(f"could not be run: {', '.join(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
