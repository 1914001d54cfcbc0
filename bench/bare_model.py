"""The baseline for the offline model: its request and reply models on a bare FastAPI route."""

from fastapi import FastAPI
from offline_model.api.requests import CompletionRequest
from offline_model.api.responses import ChatCompletion, Choice, ResponseMessage, Usage

app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/v1/chat/completions")
async def completions(body: CompletionRequest) -> ChatCompletion:
    return ChatCompletion(
        id="chatcmpl-0",
        created=0,
        model=body.model,
        choices=[Choice(message=ResponseMessage(content="An answer. " * 20), finish_reason="stop")],
        usage=Usage(prompt_tokens=10, completion_tokens=60, total_tokens=70),
        system_fingerprint="bare",
    )
