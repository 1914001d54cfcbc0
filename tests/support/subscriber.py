"""A small app for tests of the launcher: it stores each event that it gets under the event's key."""

import os
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI

app = FastAPI()
STATE = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/state/statestore"


@app.get("/dapr/subscribe")
def subscriptions() -> list[dict[str, str]]:
    return [{"pubsubname": "pubsub", "topic": os.environ["TOPIC"], "route": "/events"}]


@app.post("/events")
async def store(event: dict[str, Any]) -> None:
    async with httpx2.AsyncClient(timeout=30) as client:
        saved = await client.post(STATE, json=[{"key": event["data"]["key"], "value": event["data"]}])
        saved.raise_for_status()


@app.get("/environment")
def environment() -> dict[str, str]:
    return dict(os.environ)


if __name__ == "__main__":
    print("the app starts", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="warning")
