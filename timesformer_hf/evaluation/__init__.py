"""
How good a model is: the scores of labelled videos, metrics, results and plots.

May import: `data`, `inference`, `model`, `output` and `video`. Start with `measuring.py`, which calls
the others in order.
"""
