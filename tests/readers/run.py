"""Runs a script of this folder, and ends with its last line. Threads of native libraries may be under way
when the interpreter is taken down, and then end a process by abort that has said all it had to say.

usage: run.py SCRIPT [ARGUMENT ...]
"""

import os
import runpy
import sys

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.stdout.flush()
    os._exit(0)
