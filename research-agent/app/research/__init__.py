"""Web search, reading pages, citations, and the circuit breaker around the model."""
