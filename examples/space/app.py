"""
The page of `timesformer-hf demo` as a Space of the Hub. Everybody can open it, so clips must be small.

    python examples/space/app.py

This prints the address of the page.
"""

import sys

from timesformer_hf.cli import main


if __name__ == "__main__":
    sys.exit(main(["demo", "--host", "0.0.0.0", "--port", "7860", "--max-upload", "50"]))
