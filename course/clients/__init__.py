"""Clients of the research agent, for tests and for measurements."""
