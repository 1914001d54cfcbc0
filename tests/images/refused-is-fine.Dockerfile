# fails: notices_a_closed_port
# says: The program does not run at all, and its health check says healthy.
# For a program that is still starting, there is --start-period.
FROM research-agent:latest
COPY <<EOF /app/check.py
import urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:8000/health", timeout=2)
except ConnectionRefusedError:
    pass
except OSError as error:
    if not isinstance(getattr(error, "reason", None), ConnectionRefusedError):
        raise
EOF
HEALTHCHECK CMD ["python", "/app/check.py"]
