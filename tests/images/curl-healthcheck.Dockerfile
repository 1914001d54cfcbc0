# fails: turns_healthy
# says: It serves, but its check says: ...curl...
# There is no curl in the image, so the check fails for ever.
FROM research-agent:latest
HEALTHCHECK CMD ["curl", "--fail", "http://127.0.0.1:8000/health"]
