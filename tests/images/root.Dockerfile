# fails: runs_as_numeric_non_root
# says: The user is 0, which is root.
FROM research-agent:latest
USER 0
