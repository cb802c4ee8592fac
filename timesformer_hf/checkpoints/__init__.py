"""
Checkpoints of other formats, to and from this package's: the authors', mmaction2's, image ViTs.

May import: `data`, `model`, `output`, `version` and `video`. Start with `conversion.py`.
"""
