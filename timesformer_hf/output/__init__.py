"""
Writing results: files that are there whole or not at all, figures, tables, messages on the terminal.

May import: nothing of this package. Start with `atomic.py`, through which every output goes.
"""
