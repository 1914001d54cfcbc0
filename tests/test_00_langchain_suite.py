"""LangChain's own suite for chat models, run by its OpenAI client against the offline model."""

from typing import Any

import httpx2
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


# LangChain warns about its own code: how it serialises parsed values, and a method of pydantic v1.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings", "ignore:Received a Pydantic BaseModel V1")
class TestOfflineModel(ChatModelIntegrationTests):
    """Everything is on but what needs eyes or ears: the offline model reads text."""

    base_url = ""

    @pytest.fixture(autouse=True)
    def served(self, offline_model: str) -> None:
        type(self).base_url = f"{offline_model}/v1"

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "offline",
            "base_url": self.base_url,
            "api_key": "any",
            "max_retries": 0,
            "stream_usage": True,
            # Every test has an event loop of its own, so a connection must not outlive its test.
            "http_async_client": httpx2.AsyncClient(limits=httpx2.Limits(max_keepalive_connections=0)),
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "offline?ttft=0"

    @property
    def supports_image_inputs(self) -> bool:
        return False

    @property
    def supports_image_urls(self) -> bool:
        return False

    @property
    def supports_image_tool_message(self) -> bool:
        return False

    @property
    def supports_pdf_inputs(self) -> bool:
        return False

    @property
    def supports_pdf_tool_message(self) -> bool:
        return False

    @property
    def supports_audio_inputs(self) -> bool:
        return False
