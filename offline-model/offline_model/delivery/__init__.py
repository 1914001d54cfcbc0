"""Delivery: send an answer at a chosen speed and with a chosen fault, notice disconnects, log calls."""
