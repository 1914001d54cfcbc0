"""The audit of an agent's container: `targets` starts it, `checks` test it, `report` prints the result.

The agent has to offer the routes of `targets.Contract`, which docs/05-images.md describes.
"""
