# fails: holds_only_what_runs
FROM research-agent:latest
USER 0
RUN mkdir -p /root/.cache/pip && echo "a wheel" > /root/.cache/pip/wheel
USER 10001:10001
