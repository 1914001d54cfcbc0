# fails: answers_on_its_port
# says: GET /health on port 8000/tcp gives ... In a container a program must listen on 0.0.0.0: 127.0.0.1 is the container itself.
FROM research-agent:latest
ENV HOST=127.0.0.1
