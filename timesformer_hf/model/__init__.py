"""
The TimeSformer: its config, its network, its attention schemes and their cost.

These files may import only each other, and only as `from .sibling import`, because transformers copies them into the
folder of a saved model. Start with `modeling_timesformer.py`, which follows Figure 2 of the paper from top to bottom.
"""
