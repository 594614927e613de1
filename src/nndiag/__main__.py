"""python -m nndiag."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line."""
    gc.set_threshold(50_000, 20, 50)  # importing makes many objects and no garbage: a tenth of the start-up time
    from nndiag.cli.app import main as run

    code = run()
    gc.freeze()  # the system takes the memory back; looking for garbage among all that torch holds takes half a second
    sys.exit(code)


if __name__ == "__main__":
    main()
