"""Exercises: a lesson with a fault that really happens, or with a feature missing, for a learner to solve."""

from course.exercises.format import Change, Exercise, Mend, exercises

__all__ = ["Change", "Exercise", "Mend", "exercises"]
