"""Runs in a container of Dagger: runs a command, and posts what it prints to the gateway as it comes."""

import os
import subprocess
import sys
import threading
import urllib.request

URL = "http://gateway:8080/output"


def forward(pipe: int, stream: bytes) -> None:
    while piece := os.read(pipe, 16_384):
        request = urllib.request.Request(URL, data=stream + piece, method="POST")
        request.add_header("Authorization", f"Bearer {os.environ['OPENAI_API_KEY']}")
        urllib.request.urlopen(request, timeout=600).close()  # noqa: S310  # waits while the reader is behind


def main() -> int:
    with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        pipes = ((process.stdout.fileno(), b"1"), (process.stderr.fileno(), b"2"))
        threads = [threading.Thread(target=forward, args=pipe) for pipe in pipes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
