"""Clients of the offline model that several test modules use."""

from collections.abc import Iterator

import httpx2
import pytest
from openai import OpenAI


@pytest.fixture(scope="module")
def client(offline_model: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{offline_model}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(offline_model: str) -> Iterator[httpx2.Client]:
    """A client without an API key."""
    with httpx2.Client(base_url=offline_model, timeout=10) as client:
        yield client
