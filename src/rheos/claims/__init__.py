"""Claims that run: what a paper promises, measured here against its own baseline.

`rows` lists all methods, `reproduce` runs the claim of one, `page` renders the ledger. A claim is a module
`rheos.claims.SLUG` with an object `CLAIM`; importing this package loads none of them, and no torch.
"""

from rheos.claims.catalogue import METHODS, Method, Row, method, rows
from rheos.claims.harness import Claim, load_claim, reproduce
from rheos.claims.ledger import page, write_page
from rheos.claims.record import Figure, Outcome, Record

__all__ = [
    "METHODS",
    "Claim",
    "Figure",
    "Method",
    "Outcome",
    "Record",
    "Row",
    "load_claim",
    "method",
    "page",
    "reproduce",
    "rows",
    "write_page",
]
