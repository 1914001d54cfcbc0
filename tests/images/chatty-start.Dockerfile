# fails: logs_json
# says: This line is no JSON object: Starting the agent ....
FROM research-agent:latest
COPY <<EOF /app/start.py
import runpy
print("Starting the agent ...", flush=True)
runpy.run_path("main.py", run_name="__main__")
EOF
CMD ["python", "start.py"]
