"""Outputs: compare what a command printed with what the page shows."""

import doctest


def matches(expected: str, printed: str) -> bool:
    """Whether the output is what the page shows, where `...` matches anything, as in doctest."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected.strip() + "\n", printed.strip() + "\n", flags)
