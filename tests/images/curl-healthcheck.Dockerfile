# fails: turns_healthy
# There is no curl in the image, so the check fails for ever.
FROM research-agent:latest
HEALTHCHECK CMD ["curl", "--fail", "http://127.0.0.1:8000/health"]
