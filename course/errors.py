"""Failed: the error whose text a learner reads."""


class Failed(Exception):
    """A process could not be started or did not become ready; the text says why, in words for its user."""
