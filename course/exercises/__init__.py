"""Exercises: a lesson with a fault, or with a feature missing, for a learner to solve."""
