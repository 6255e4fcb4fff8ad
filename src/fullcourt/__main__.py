"""`python -m fullcourt` is the command `fullcourt`."""

import sys

from fullcourt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
