"""
Labelled videos for training and evaluation: reading them, splitting them, making clips of them.

May import: `output` and `video`. Start with `reading.py`, which chooses between folders, tables and the Hub.
"""
