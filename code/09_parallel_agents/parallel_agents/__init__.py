"""Lesson 09: parallel agents, each in its own container, watched live."""
