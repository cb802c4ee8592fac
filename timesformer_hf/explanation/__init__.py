"""
What a classifier looks at in a clip: relevance, pictures of it, and how good it is.

May import: `data`, `inference`, `model`, `output` and `video`. Start with `relevance.py`, which computes, then see
`video_explanation.py` for files and `drawing.py` for pictures.
"""
