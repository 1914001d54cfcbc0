# fails: notices_a_hang
# says: The program was stopped by SIGSTOP, and its health check still says healthy.
# The kernel accepts connections for a program that hangs. Only a response proves that it works.
FROM research-agent:latest
HEALTHCHECK CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000), 2)"]
