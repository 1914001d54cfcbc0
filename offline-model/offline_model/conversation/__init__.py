"""The conversation: its messages, and what a tool or a schema can take from them."""
