# fails: contains_no_build_leftovers
# says: The image holds /root/.cache/pip/wheel; a running agent needs none of it.
FROM research-agent:latest
USER 0
RUN mkdir -p /root/.cache/pip && echo "a wheel" > /root/.cache/pip/wheel
USER 10001:10001
