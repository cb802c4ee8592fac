"""
Writes results: files that are written completely or not at all, figures, tables, messages on the terminal.

May import: nothing else of this package. Start with `atomic.py`, through which every output goes.
"""
