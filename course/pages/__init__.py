"""Pages: a lesson's Markdown file, read, run, and kept current."""
