"""Records of measurements: how they were taken, and where they are saved."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from course.figures.records import RECORD
from course.paths import ROOT


def measured(how: str, *libraries: str, **versions: str) -> dict[str, Any]:
    """How, on which machine, when, and with which versions something was measured."""
    found = {name: version(name) for name in libraries}
    system = f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}"
    return {
        "how": how,
        "on": system,
        "when": datetime.now(UTC).date().isoformat(),
        "versions": {"Python": platform.python_version()} | found | versions,
    }


def series(
    name: str, groups: Sequence[Sequence[float]], to: Sequence[Sequence[float]] = ()
) -> dict[str, Any]:
    """Median and spread of the rounds of each group; with `to`, the median of the ratios round by round."""
    made: dict[str, Any] = {
        "name": name,
        "values": [round(statistics.median(rounds), 3) for rounds in groups],
        "low": [round(min(rounds), 3) for rounds in groups],
        "high": [round(max(rounds), 3) for rounds in groups],
    }
    if to:
        made["ratio"] = [
            round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 3)
            for mine, theirs in zip(groups, to, strict=True)
        ]
    return made


def save(name: str, record: dict[str, Any]) -> None:
    """Save the record, and print its numbers."""
    RECORD.validate_python(record)
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (ROOT / "docs" / "figures" / f"{name}.json").write_text(text, "utf-8")
    print(record.get("values", ""))
    for one in record.get("series", []):
        print(f"{one['name']}: {one['values']}", f"ratio {one['ratio']}" if "ratio" in one else "")
    for lane in record.get("lanes", []):
        print(f"{lane['name']}: {[(span['start'], span['end'], span['label']) for span in lane['spans']]}")
