"""The corpus: search over the course's pages and Python's own documentation."""
