"""`python -m offline_model`: start the offline model."""

import argparse
import gc
import os
import signal
import sqlite3
import sys
from pathlib import Path

from offline_model.api.app import build
from offline_model.corpus.search import open_corpus
from offline_model.server import listen, serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="offline_model", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free one")
    options = parser.parse_args()
    # Until the server listens for signals itself, one simply ends the program.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        listener = listen(options.host, options.port)
    except (OSError, OverflowError) as problem:
        why = getattr(problem, "strerror", None) or problem
        print(f"offline model: cannot listen on {options.host}:{options.port}: {why}", file=sys.stderr)
        return 1
    try:
        corpus = open_corpus(pages())
    except sqlite3.Error as problem:
        print(f"offline model: this Python's SQLite cannot search full text: {problem}", file=sys.stderr)
        return 1
    # The index lives as long as the process, so the collector need never look at it again; what a request
    # leaves behind has no cycles, so it need not look often either.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    host, port = listener.getsockname()[:2]
    print(f"offline model: http://{host}:{port}/v1, {corpus.size} passages", flush=True)
    serve(build(corpus), listener)
    return 0


def pages() -> Path | None:
    """The folder of pages: what OFFLINE_MODEL_BOOKS names, else the course's own docs beside this package."""
    folder = os.environ.get("OFFLINE_MODEL_BOOKS")
    path = Path(folder) if folder else Path(__file__).resolve().parents[2] / "docs"
    return path if path.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
