"""`python -m rheos`, and `torchrun -m rheos train ...`."""

import os
import sys

from rheos.cli import main

if __name__ == "__main__":
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # One of several processes: threads of the process group may abort while the interpreter is taken down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
