"""Runs in a container of Dagger: runs a command, and posts what it prints to the gateway as it comes."""

import os
import subprocess
import sys
import threading
import urllib.request


def forward(pipe: int, stream: bytes) -> None:
    while piece := os.read(pipe, 16_384):
        headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
        request = urllib.request.Request("http://gateway:8080/output", stream + piece, headers)
        urllib.request.urlopen(request, timeout=600).close()  # noqa: S310  # waits while the reader is behind


with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    assert process.stdout and process.stderr
    other = threading.Thread(target=forward, args=(process.stderr.fileno(), b"2"))
    other.start()
    forward(process.stdout.fileno(), b"1")
    other.join()
sys.exit(process.returncode)
