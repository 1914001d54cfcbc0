# fails: runs_as_nobody
# says: The user is 0, which is root.
FROM research-agent:latest
USER 0
