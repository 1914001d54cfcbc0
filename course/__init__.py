"""The course's own tools: they run pages, check exercises, draw figures, and set up engines."""
