# fails: holds_no_secret
# says: /app/.env was removed or replaced, but is still in a lower layer: anyone who has the image can read it.
# A file that a layer deletes is still in the layer below.
FROM research-agent:latest
USER 0
COPY <<EOF /app/.env
OPENAI_API_KEY=sk-this-is-not-a-key-but-it-looks-like-one
EOF
RUN rm /app/.env
USER 10001:10001
