"""CourseError: the error that commands print."""


class CourseError(Exception):
    """An error whose message is shown to the learner in one line, without a traceback."""
