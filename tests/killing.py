"""Code for a process of its own that a signal ends while it writes, leaving no time to clean up."""

KILLED_AFTER_TWO_PARTS = """
import os, signal
from pyarrow import parquet

write_table = parquet.write_table

def killed(table, path):
    write_table(table, path)
    if path.name == "00000002.parquet":
        os.kill(os.getpid(), signal.SIGKILL)

parquet.write_table = killed
"""
