# fails: runs_in_256_mb
# says: With 256 MB and half a processor it is killed because it uses too much memory.
FROM research-agent:latest
COPY <<EOF /app/start.py
import runpy
model = b"x" * 300_000_000
runpy.run_path("main.py", run_name="__main__")
EOF
CMD ["python", "start.py"]
