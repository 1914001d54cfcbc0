"""Run Python code, and return what it printed. An exception ends the script with its traceback."""

import json
import os
import sys
import tempfile
from pathlib import Path

given = json.loads(Path(sys.argv[1]).read_text())
real_stdout = os.dup(1)
with tempfile.TemporaryFile() as captured:
    os.dup2(captured.fileno(), 1)  # also catches what programs print that the code starts
    exec(compile(given["code"], "<code>", "exec"), {"__name__": "__main__"})  # in a sandbox
    sys.stdout.flush()
    os.dup2(real_stdout, 1)
    captured.seek(0)
    print(json.dumps({"printed": captured.read().decode("utf-8", "replace")}))
