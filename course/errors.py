"""Failed: an error whose message is written for the learner."""


class Failed(Exception):
    """Something could not be done. Commands print the message in one line, without a traceback."""
