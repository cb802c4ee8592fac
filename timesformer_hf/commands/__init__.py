"""
The command line: one module for each command.

May import: everything but `cli`, which imports it. Each module has `add_parser` and `run`. What a command needs is
imported only when it runs, so that `--help` is quick.
"""
