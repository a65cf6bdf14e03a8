"""`python -m tastemaker` and `torchrun ... -m tastemaker`."""

import sys

from tastemaker.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
