"""Tests import the package `parallel_agents` from this folder."""
