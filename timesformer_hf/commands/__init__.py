"""
The command line, a module for each command.

May import: everything but `cli`, which imports it. Each module has `add_parser` and `run`; what a command needs is
imported when it runs, so that `--help` is quick.
"""
