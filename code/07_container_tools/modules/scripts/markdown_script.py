"""Convert Markdown (CommonMark with tables) to HTML. HTML in the text is escaped, so that it cannot run."""

import json
import sys
from pathlib import Path

from markdown_it import MarkdownIt

given = json.loads(Path(sys.argv[1]).read_text())
converter = MarkdownIt("commonmark", {"html": False}).enable("table")
print(json.dumps({"html": converter.render(given["markdown"])}))
