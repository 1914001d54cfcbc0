"""The yardstick for lesson 01: the same two routes with the same models, and no agent behind them."""

from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, JsonValue, StringConstraints


class AgentRequest(BaseModel):
    query: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]
    context: dict[str, JsonValue] = {}
    stream: bool = False


class AgentResponse(BaseModel):
    response: str
    tokens_used: int
    model: str


class Health(BaseModel):
    status: str
    version: str
    dependencies: dict[str, str]


app = FastAPI()


@app.get("/health")
async def health() -> Health:
    return Health(status="healthy", version="1.0.0", dependencies={"model": "ok"})


@app.post("/v1/invoke")
async def invoke(body: AgentRequest) -> AgentResponse:
    return AgentResponse(response=body.query, tokens_used=0, model="none")
