"""Kafka: the broker's Java libraries, from Maven, in a folder like the one that its download has."""

import re
import shutil

from rich.console import Console

from course.engines import debian, engine
from course.engines.built import BuiltEngine
from course.engines.engine import version_of
from course.errors import CourseError
from course.paths import ROOT

TOOLS = ROOT / "tools" / "kafka"


def pinned_version() -> str:
    """The version that is fetched."""
    pinned = re.search(r"<artifactId>kafka_.*?<version>(.+?)</version>", (TOOLS / "pom.xml").read_text())
    assert pinned
    return pinned[1]


class Kafka(BuiltEngine):
    """The folder has the libraries in `libs`, as Kafka's download has, and Java runs them."""

    name = "kafka"
    purpose = "events between services"
    install_hint = "`make engine kafka` on Debian; else a download whose folder KAFKA_HOME names, and Java 17"
    variable = "KAFKA_HOME"
    program_path = "libs/kafka_2.*.jar"
    script = TOOLS / "fetch.sh"
    cached = engine.CACHE / "kafka" / pinned_version()
    size = "45 MB of disk and twenty seconds"

    def version(self) -> str | None:
        program, java = self.program(), version_of(["java", "--version"])
        if program is None or java is None or int(java.partition(".")[0]) < 17:
            return None
        return program.rpartition("-")[2].removesuffix(".jar")

    def require_builder(self, console: Console) -> None:
        if not (shutil.which("java") and shutil.which("mvn")):
            if not debian.can_install():
                raise CourseError(self.missing_message)
            debian.install("default-jre-headless maven", console)
