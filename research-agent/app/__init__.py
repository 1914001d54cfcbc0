"""A research agent: it plans, searches, reads, cites, and streams what it does."""
