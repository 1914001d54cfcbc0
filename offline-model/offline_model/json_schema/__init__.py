"""Schemas: values that fit a JSON schema, filled from a conversation."""
