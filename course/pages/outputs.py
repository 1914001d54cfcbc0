"""Outputs: what a command printed, compared with what the page shows."""

import doctest


def matches(expected: str, printed: str) -> bool:
    """Whether a command printed what the page shows, `...` standing for anything (doctest's rule)."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected.strip() + "\n", printed.strip() + "\n", flags)
