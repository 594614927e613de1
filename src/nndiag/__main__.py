"""python -m nndiag."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line."""
    gc.set_threshold(50_000, 20, 50)  # importing makes many objects and no garbage: a tenth of the start-up time
    from nndiag.cli.app import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
