"""PostgreSQL: Debian's package, whose programs are in no search path."""

import shutil
from pathlib import Path

from course.engines.engine import Program

DEBIAN = Path("/usr/lib/postgresql")  # one folder for each version


class PostgreSQL(Program):
    """Its server; lessons and tests start clusters of their own, and none of the system's."""

    def program(self) -> str | None:
        debians = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
        return shutil.which("postgres") or (str(debians[-1]) if debians else None)


POSTGRESQL = PostgreSQL(
    name="postgresql",
    purpose="what services remember",
    install_hint="`make engine postgresql` on Debian, `brew install postgresql` on macOS",
    programs=("postgres",),
    package="postgresql",
    size="60 MB of disk and ten seconds",
)
