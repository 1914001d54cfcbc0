"""Compile the installed packages to bytecode, and cache it for the next build. `Dockerfile` runs this.

Usage: bytecode.py LAYER CACHE (two folders). Without the cache, compiling takes most of the build.
"""

import csv
import hashlib
import multiprocessing
import py_compile
import shutil
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

layer, cache = map(Path, sys.argv[1:])


def compile_package(record: Path) -> None:
    """Compile the files in a package's RECORD, or copy them from the cache; its key is the RECORD's hash."""
    cached = cache / hashlib.sha256(MAGIC_NUMBER + record.read_bytes()).hexdigest()
    site = record.parent.parent
    with record.open(encoding="utf-8") as rows:
        sources = [row[0] for row in csv.reader(rows) if row[0].endswith(".py") and (site / row[0]).exists()]
    if not cached.exists():
        new = cached.with_suffix(".new")
        for source in sources:
            # Python must use the bytecode without comparing timestamps, because the image resets all of them.
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            place = f"/{(site / source).relative_to(layer)}"
            py_compile.compile(
                str(site / source), f"{new / source}c", place, doraise=True, invalidation_mode=mode
            )
        new.mkdir(exist_ok=True)
        new.rename(cached)
    for source in sources:
        target = Path(cache_from_source(site / source))
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(cached / f"{source}c", target)


if __name__ == "__main__":
    # A new process for each package: bytecode depends on what the process has compiled before.
    with multiprocessing.Pool(maxtasksperchild=1) as pool:
        pool.map(compile_package, sorted(layer.glob("**/*.dist-info/RECORD")), chunksize=1)
