"""Where the course is, and how a lesson's files are copied."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_sources(source: Path, target: Path) -> Path:
    """Copy a lesson's folder without what its commands write there, which may vanish during the copy.

    What they write has one of the names at the ends of the lines of .gitignore.
    """
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignore = shutil.ignore_patterns(*(Path(line).name for line in lines))
    return shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
