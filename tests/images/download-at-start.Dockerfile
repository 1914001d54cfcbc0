# fails: downloads_nothing
# says: Where nothing but its model can be reached it does not answer: ...
# A program that downloads a file at its start (a tokenizer, a model) fails on a network without internet.
FROM research-agent:latest
COPY <<EOF /app/start.py
import runpy
import urllib.request
urllib.request.urlopen("http://downloads:9000/health", timeout=10).read()
runpy.run_path("main.py", run_name="__main__")
EOF
CMD ["python", "start.py"]
