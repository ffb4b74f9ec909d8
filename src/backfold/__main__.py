"""Run the command line as ``python -m backfold``."""

import sys

from .engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
