"""Tests import the lesson's packages from this folder."""
