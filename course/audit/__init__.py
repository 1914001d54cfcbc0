"""An audit: does an agent's container behave? `targets` starts it, `checks` look at it, `report` tells.

It takes for granted what `targets.Contract` says; docs/05-images.md states it for readers.
"""
