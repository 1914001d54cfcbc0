"""Smoke test: the agent is ready, answers a question, and streams an answer to its last event."""

import json
from urllib.request import Request, urlopen

URL = "http://proxy"


def post(path: str, query: str) -> Request:
    body = json.dumps({"query": query}).encode()
    return Request(URL + path, body, {"Content-Type": "application/json"})  # noqa: S310


with urlopen(f"{URL}/ready", timeout=10) as reply:  # noqa: S310
    print("ready:", json.load(reply)["ready"])
with urlopen(post("/v1/research", "What is graceful shutdown?"), timeout=90) as reply:  # noqa: S310
    answer = json.load(reply)["response"]
    assert answer, "The answer is empty."
    print("answered:", answer[:60])
with urlopen(post("/v1/research/stream", "What is a container image?"), timeout=90) as reply:  # noqa: S310
    events = [line.decode().removeprefix("event: ").strip() for line in reply if line.startswith(b"event: ")]
assert events[-1] == "done", f"The stream ended with {events[-1]}."
print("streamed:", len(events), "events")
