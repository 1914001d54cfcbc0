"""Figures: records of measurements and ideas, their pictures, and their places in pages."""
