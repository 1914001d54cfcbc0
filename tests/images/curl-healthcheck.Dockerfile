# fails: turns_healthy
# says: It serves, but its check says: ...curl...
# The image has no curl, so the check always fails.
FROM research-agent:latest
HEALTHCHECK CMD ["curl", "--fail", "http://127.0.0.1:8000/health"]
