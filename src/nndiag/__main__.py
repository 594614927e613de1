"""python -m nndiag."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    from nndiag.cli.app import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
