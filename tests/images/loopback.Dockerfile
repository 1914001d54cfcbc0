# fails: answers_on_its_port
FROM research-agent:latest
ENV HOST=127.0.0.1
