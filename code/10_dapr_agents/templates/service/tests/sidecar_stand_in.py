"""A sidecar for unit tests, in this process: state with ETags, and a list of what was published."""

import json
from typing import Any

import httpx2


class StandIn:
    """Answers the requests that sidecar.py makes, with Dapr's statuses. No network is used."""

    def __init__(self) -> None:
        self.state: dict[str, tuple[int, Any]] = {}  # the number of writes of a key serves as its ETag
        self.published: list[dict[str, Any]] = []
        self.down = False  # what it stands for: PostgreSQL and Kafka

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path.startswith("/v1.0/healthz"):
            return httpx2.Response(204)
        if self.down:
            return httpx2.Response(500, json={"errorCode": "ERR_STATE_STORE"})
        if path.startswith("/v1.0/publish/"):
            self.published.append(json.loads(request.content))
            return httpx2.Response(204)
        if path.endswith("/transaction"):
            return self.commit([each["request"] for each in json.loads(request.content)["operations"]])
        version, value = self.state.get(path.rpartition("/")[2], (0, None))
        if not version:
            return httpx2.Response(204)
        return httpx2.Response(200, json=value, headers={"etag": str(version)})

    def commit(self, writes: list[dict[str, Any]]) -> httpx2.Response:
        for write in writes:
            if write["options"]["concurrency"] == "first-write" and str(
                self.state.get(write["key"], (0,))[0]
            ) != write.get("etag", "0"):
                return httpx2.Response(500, json={"errorCode": "ERR_STATE_TRANSACTION"})
        for write in writes:
            self.state[write["key"]] = (self.state.get(write["key"], (0,))[0] + 1, write["value"])
        return httpx2.Response(204)

    def topics(self) -> list[str]:
        return [event["type"] for event in self.published]
