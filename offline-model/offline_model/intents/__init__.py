"""Intents: one module for each kind of question that the model can answer."""
