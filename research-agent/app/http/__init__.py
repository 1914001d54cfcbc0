"""HTTP: middleware, authentication, problems, the routes beside the research, and the server."""
