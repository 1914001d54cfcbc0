"""The books: the course's pages and Python's own documentation, searched by full text."""
