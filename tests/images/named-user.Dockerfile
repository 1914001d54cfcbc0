# fails: runs_as_nobody
# says: The user is 'agent': an orchestrator cannot tell from a name that it is not root.
# Whether "agent" is root stands in /etc/passwd, which no orchestrator reads.
FROM research-agent:latest
USER 0
RUN echo "agent:x:10001:10001::/app:/usr/sbin/nologin" >> /etc/passwd
USER agent
