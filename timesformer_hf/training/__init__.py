"""
Training: how it starts, recipes, losses, the Trainer for clips, and the files that are written at the end.

May import: `checkpoints`, `data`, `evaluation`, `model`, `output`, `version` and `video`. Start with `finetune.py`,
which calls the others in order.
"""
