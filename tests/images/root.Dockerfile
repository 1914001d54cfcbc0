# fails: runs_as_nobody
FROM research-agent:latest
USER 0
