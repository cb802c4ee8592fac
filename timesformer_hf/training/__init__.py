"""
Training: where it starts, recipes, losses, the Trainer for clips, what is written at the end.

May import: `checkpoints`, `data`, `evaluation`, `model`, `output`, `version` and `video`. Start with `start.py` and
`trainer.py`.
"""
