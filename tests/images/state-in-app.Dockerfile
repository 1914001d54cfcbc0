# fails: needs_no_writable_root
# says: With a read-only root it does not answer: ...
FROM research-agent:latest
USER 0
RUN chown 10001:10001 /app
COPY <<EOF /app/start.py
import runpy
from pathlib import Path
Path("/app/state").write_text("started")
runpy.run_path("main.py", run_name="__main__")
EOF
USER 10001:10001
CMD ["python", "start.py"]
