"""Compile installed packages to bytecode, except those that an earlier build has compiled.

`Dockerfile` runs `bytecode.py LAYER CACHE` (two folders). Compiling takes longer than installing.
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
    """Compile the files that a package's RECORD lists, or copy them from the cache (by its hash)."""
    cached = cache / hashlib.sha256(MAGIC_NUMBER + record.read_bytes()).hexdigest()
    site = record.parent.parent
    with record.open(encoding="utf-8") as rows:
        sources = [row[0] for row in csv.reader(rows) if row[0].endswith(".py") and (site / row[0]).exists()]
    if not cached.exists():
        new = cached.with_suffix(".new")
        for source in sources:
            # Python must not compare the date of the source: the build sets all dates to 0.
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            installed = f"/{(site / source).relative_to(layer)}"
            py_compile.compile(
                str(site / source), f"{new / source}c", installed, doraise=True, invalidation_mode=mode
            )
        new.mkdir(exist_ok=True)
        new.rename(cached)
    for source in sources:
        target = Path(cache_from_source(site / source))
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(cached / f"{source}c", target)


if __name__ == "__main__":
    # A new process for each package: bytecode depends on what its process has compiled before.
    with multiprocessing.Pool(maxtasksperchild=1) as pool:
        pool.map(compile_package, sorted(layer.glob("**/*.dist-info/RECORD")), chunksize=1)
