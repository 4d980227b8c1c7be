"""`python -m rheos`, and `torchrun -m rheos train ...`."""

import sys

from rheos.cli import main

if __name__ == "__main__":
    sys.exit(main())
