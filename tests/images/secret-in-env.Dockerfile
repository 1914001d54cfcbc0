# fails: no_secret_in_env_or_history
# says: ENV OPENAI_API_KEY is set: anyone who has the image can read it.
FROM research-agent:latest
ENV OPENAI_API_KEY=sk-this-is-not-a-key-but-it-looks-like-one
