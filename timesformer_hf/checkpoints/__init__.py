"""
Converts checkpoints of other formats: those of the authors, of mmaction2, of image ViTs, and back to the authors'.

May import: `data`, `model`, `output`, `version` and `video`. Start with `conversion.py`.
"""
