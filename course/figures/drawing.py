"""Drawing: a record as SVG, by matplotlib, legible on light and on dark pages."""

import io
import re
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

from course.figures.charts import draw_bars, draw_timeline
from course.figures.colours import DARK, INK
from course.figures.diagrams import draw_graph, draw_layers
from course.figures.records import Bars, Graph, Layers, Record, Timeline, digest

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


def draw(record: Record) -> str:
    """The record as SVG. The same record gives the same bytes."""
    about = {"Title": record.title, "Description": f"record sha256:{digest(record)}"}
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(), io.StringIO() as file:
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "course", "text.parse_math": False})
        mpl.rcParams.update({"font.family": ["DejaVu Sans"], "font.size": 9, "text.color": INK})
        figure = Figure()
        match record:
            case Bars():
                draw_bars(record, figure)
            case Timeline():
                draw_timeline(record, figure)
            case Layers():
                draw_layers(record, figure)
            case Graph():
                draw_graph(record, figure)
        figure.savefig(file, format="svg", transparent=True, metadata=about | nothing)
        return _make_accessible(file.getvalue(), record)


def _make_accessible(svg: str, record: Record) -> str:
    """Add text for screen readers, colours for dark pages, and fonts that readers have."""
    swaps = [(kind, *pair) for kind in ("fill", "stroke") for pair in DARK]
    rules = "".join(f'[style*="{kind}: {old}"]{{{kind}:{new}!important}}' for kind, old, new in swaps)
    head = f"<title>{escape(record.title)}</title><desc>{escape(record.alt)}</desc>"
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    svg = re.sub(r"(<svg[^>]*)>", rf'\1 role="img">\n {head}\n {style}', svg, count=1)
    return re.sub(r"[ \t]+$", "", svg.replace("'DejaVu Sans'", FONTS), flags=re.M)
