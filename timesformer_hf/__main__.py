"""`python -m timesformer_hf` is `timesformer-hf`."""

import sys

from .cli import main


if __name__ == "__main__":
    sys.exit(main())
