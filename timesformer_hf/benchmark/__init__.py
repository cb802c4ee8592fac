"""
`timesformer-hf bench`: measures this package and its peers side by side.

May import: `inference`, `model`, `output`, `version` and `video`. Start with `cases.py`, the table of what is measured,
and `measuring.py`, which measures it.
"""
