"""Nothing in the tests reaches the network; set before transformers reads it."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")
