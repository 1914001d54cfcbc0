"""JSON schemas: validation, and values that fit, generated from a conversation."""
