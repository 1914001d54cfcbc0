# fails: notices_a_hang
# The kernel takes connections for a program that hangs; only an answer shows that it does not.
FROM research-agent:latest
HEALTHCHECK CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000), 2)"]
