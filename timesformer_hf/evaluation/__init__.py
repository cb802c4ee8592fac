"""
How good a model is: scores to metrics, reports and plots.

May import: `data`, `inference`, `model`, `output` and `video`. Start with `results.py`.
"""
