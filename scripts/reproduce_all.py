"""`make claims`: run the claim of every method that works, one after another, and write the records and the ledger.

Arguments are passed on to `rheos reproduce`: `make claims CLAIMS=--quick` checks the directions in minutes.
"""

import subprocess
import sys
from pathlib import Path

from rheos.claims import rows, write_page


def main(options: list[str]) -> int:
    """The worst exit status of all claims."""
    rheos = str(Path(sys.executable).parent / "rheos")
    slugs = [row["slug"] for row in rows() if row["state"] == "works"]
    failed = [slug for slug in slugs if subprocess.run([rheos, "reproduce", slug, *options], check=False).returncode]
    if "--quick" not in options:
        print(write_page(Path(__file__).resolve().parent.parent))
    print(f"{len(slugs)} claims were run" + (f"; not well: {', '.join(failed)}." if failed else "."))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
