"""Lint: everything that can be checked without running a lesson."""
