"""The image's HEALTHCHECK: exit 0 if /health answers 200. It takes a few hundredths of a second of CPU.

It runs every few seconds, so it imports only what it needs: the app's imports would cost more than its work.
"""

import os
import socket
import sys

port = int(os.environ.get("PORT", "8000"))
with socket.create_connection(("127.0.0.1", port), timeout=2) as server:
    server.sendall(b"GET /health HTTP/1.0\r\n\r\n")
    sys.exit(not server.recv(12).endswith(b" 200"))
