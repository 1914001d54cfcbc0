# fails: runs_as_numeric_non_root
# says: The user is 'agent': an orchestrator cannot tell from a name that it is not root.
# /etc/passwd says whether "agent" is root, but no orchestrator reads it.
FROM research-agent:latest
USER 0
RUN echo "agent:x:10001:10001::/app:/usr/sbin/nologin" >> /etc/passwd
USER agent
