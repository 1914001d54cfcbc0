"""Compile installed packages to bytecode, save those that the last build has compiled; `Dockerfile` runs it.

Usage: bytecode.py LAYER CACHE, two folders. Compiling takes longer than all the rest of an installation.
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
    """Compile what the RECORD of a package lists, or take it from the cache under the record's hash."""
    kept = cache / hashlib.sha256(MAGIC_NUMBER + record.read_bytes()).hexdigest()
    site = record.parent.parent
    with record.open(encoding="utf-8") as rows:
        sources = [row[0] for row in csv.reader(rows) if row[0].endswith(".py") and (site / row[0]).exists()]
    if not kept.exists():
        new = kept.with_suffix(".new")
        for source in sources:
            # Bytecode that is taken as it is, with no look at the date of its source: no date is what it was.
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            place = f"/{(site / source).relative_to(layer)}"
            py_compile.compile(
                str(site / source), f"{new / source}c", place, doraise=True, invalidation_mode=mode
            )
        new.mkdir(exist_ok=True)
        new.rename(kept)
    for source in sources:
        target = Path(cache_from_source(site / source))
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(kept / f"{source}c", target)


if __name__ == "__main__":
    # A process for each package: what one compiled before would show in the bytecode.
    with multiprocessing.Pool(maxtasksperchild=1) as pool:
        pool.map(compile_package, sorted(layer.glob("**/*.dist-info/RECORD")), chunksize=1)
