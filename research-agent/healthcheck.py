"""What an image's HEALTHCHECK runs: exit 0 when /health answers 200, in a few hundredths of a second of CPU.

It imports no more than it takes: the app's own imports, every few seconds, would cost more than its work.
"""

import os
import socket
import sys

port = int(os.environ.get("PORT", "8000"))
with socket.create_connection(("127.0.0.1", port), timeout=2) as server:
    server.sendall(b"GET /health HTTP/1.0\r\n\r\n")
    sys.exit(not server.recv(12).endswith(b" 200"))
