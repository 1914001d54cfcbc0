# fails: tells_no_secret
# says: ENV OPENAI_API_KEY is set: anyone who has the image can read it.
FROM research-agent:latest
ENV OPENAI_API_KEY=sk-this-is-not-a-key-but-it-looks-like-one
