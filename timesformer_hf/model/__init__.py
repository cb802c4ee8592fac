"""
The TimeSformer: its config, its network, its attention schemes, what they cost.

May import: its own files, by `from .sibling import` alone, because transformers copies them beside the weights of a
saved model. Start with `modeling_timesformer.py`, which reads from top to bottom like Figure 2 of the paper.
"""
