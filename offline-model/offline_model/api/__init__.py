"""HTTP: routes, the wire format of requests and responses, validation, and the mapping of errors."""
