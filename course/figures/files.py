"""Draw all records, and check that records, pictures and pages agree."""

from pathlib import Path

from course.figures.markdown import embed
from course.figures.records import BadRecord, digest, load
from course.paths import ROOT


def draw_all(root: Path = ROOT) -> list[Path]:
    """Draw every record; returns the pictures that changed."""
    from course.figures.drawing import draw  # imported here, because matplotlib is not installed for lessons

    changed = []
    for path in sorted((root / "docs" / "figures").glob("*.json")):
        picture, svg = path.with_suffix(".svg"), draw(load(path.stem, path.parent))
        if not picture.exists() or picture.read_text("utf-8") != svg:
            picture.write_text(svg, "utf-8", newline="\n")
            changed.append(picture)
    return changed


def problems(root: Path = ROOT) -> list[str]:
    """One line for each disagreement of records, pictures and pages. Does not need matplotlib."""
    figures = root / "docs" / "figures"
    found = [_stale(path) for path in sorted(figures.glob("*.json"))]
    for picture in sorted(figures.glob("*.svg")):
        if not picture.with_suffix(".json").exists():
            found.append(f"docs/figures/{picture.name} has no record {picture.stem}.json")
    for page in sorted((root / "docs").glob("*.md")):
        try:
            if embed(text := page.read_text("utf-8"), figures) != text:
                found.append(f"docs/{page.name} shows a figure that differs from its record: make docs")
        except BadRecord as error:
            found.append(f"docs/{page.name}: {error}")
    return [line for line in found if line]


def _stale(path: Path) -> str | None:
    """A sentence about what is wrong with a record or its picture; None if nothing is wrong."""
    picture = path.with_suffix(".svg")
    try:
        record = load(path.stem, path.parent)
    except BadRecord as error:
        return str(error)
    if not picture.exists():
        return f"docs/figures/{picture.name} is not drawn yet: make figures"
    if f"sha256:{digest(record)}" not in picture.read_text("utf-8"):
        return f"docs/figures/{picture.name} was drawn from another record: make figures"
    return None
