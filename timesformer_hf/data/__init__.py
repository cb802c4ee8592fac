"""
Labelled videos for training and evaluation: reading them, splitting them, and making clips from them.

This folder may import `output` and `video`. Start with `reading.py`, which chooses between folders, tables and the Hub.
"""
