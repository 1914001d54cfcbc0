"""Figures: records of measurements, the pictures drawn from them, and their numbers in pages."""
