# fails: runs_as_nobody
# Whether "agent" is root stands in /etc/passwd, which no orchestrator reads.
FROM research-agent:latest
USER 0
RUN echo "agent:x:10001:10001::/app:/usr/sbin/nologin" >> /etc/passwd
USER agent
