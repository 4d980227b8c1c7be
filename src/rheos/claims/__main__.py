"""`python -m rheos.claims`: make docs/claims.md of a checkout anew from its records."""

import sys

from rheos.claims.checkout import root
from rheos.claims.ledger import write_page

if __name__ == "__main__":
    here = root()
    if here is None:
        sys.exit("The ledger is a page of the source: run this from a checkout.")
    print(write_page(here))
