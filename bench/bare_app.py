"""The baseline for lessons 01 and 02: the same routes with the same models, without an agent."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field, JsonValue, StringConstraints


class AgentRequest(BaseModel):
    query: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]
    context: dict[str, JsonValue] = {}
    stream: bool = False


class AgentResponse(BaseModel):
    response: str
    tokens_used: int
    model: str


class ProductionRequest(AgentRequest):
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 1024
    temperature: Annotated[float, Field(ge=0, le=2)] = 1


class ProductionResponse(AgentResponse):
    id: str
    latency_ms: float
    timestamp: datetime


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


@app.post("/production/invoke")
async def production_invoke(body: ProductionRequest) -> ProductionResponse:
    now = datetime.now(UTC)
    return ProductionResponse(
        response=body.query, tokens_used=0, model="none", id="none", latency_ms=0, timestamp=now
    )
