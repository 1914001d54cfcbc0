"""Greet somebody, and say where the greeting was written."""

import json
import platform
import sys
from pathlib import Path

given = json.loads(Path(sys.argv[1]).read_text())
greeting = f"Hello, {given['name']}!"
print(json.dumps({"greeting": greeting, "from": f"Python {platform.python_version()} in a container"}))
