"""The sources that the corpus is read from, one module each."""
