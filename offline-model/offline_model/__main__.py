"""`python -m offline_model`: start the offline model."""

import argparse
import gc
import os
import signal
import sqlite3
import sys
from pathlib import Path

NO_FULL_TEXT_SEARCH = (
    "offline model: the SQLite of this Python ({python}) has no full-text search (FTS5), which the model "
    "needs: {problem}. Use another Python, such as one from python.org or the image python:3.13-slim."
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="offline_model", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000, help="0 chooses a free port")
    options = parser.parse_args()
    # Until uvicorn handles signals, a signal ends the program at once.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        # Imported here because the corpus needs FTS5 as soon as it is imported.
        from offline_model import server
        from offline_model.corpus.search import open_corpus
    except sqlite3.OperationalError as problem:
        print(NO_FULL_TEXT_SEARCH.format(python=sys.executable, problem=problem), file=sys.stderr)
        return 1
    host, port = options.host, options.port
    try:
        listener = server.listen(host, port)
    except (OSError, OverflowError) as problem:
        # socket.create_server adds the address to its reason, in brackets.
        why = str(getattr(problem, "strerror", None) or problem).partition(" (")[0]
        print(f"offline model: cannot listen on {host}:{port}: {why}", file=sys.stderr)
        return 1
    corpus = open_corpus(docs_folder())
    # The index lives as long as the process, so the garbage collector need not visit it. Requests leave no
    # cycles behind, so collections can be rare.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    host, port = listener.getsockname()[:2]
    print(f"offline model: http://{host}:{port}/v1, {corpus.size} passages", flush=True)
    server.serve(corpus, listener)
    return 0


def docs_folder() -> Path | None:
    """The folder of pages: OFFLINE_MODEL_BOOKS, else the course's docs; None when it does not exist."""
    folder = os.environ.get("OFFLINE_MODEL_BOOKS")
    path = Path(folder) if folder else Path(__file__).resolve().parents[2] / "docs"
    return path if path.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
