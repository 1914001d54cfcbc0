"""Delivery: send an answer at a chosen pace and with a chosen fault, notice disconnects, log calls."""
