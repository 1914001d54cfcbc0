"""Web search: a SearXNG server (offline, the offline model's own), or DuckDuckGo and its like."""

import asyncio
import math
import random
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import httpx2
from cachetools import TTLCache
from ddgs import DDGS
from ddgs.exceptions import DDGSException, RatelimitException, TimeoutException
from pydantic import BaseModel, ValidationError

from app.config import Settings
from app.fetch import Fetcher, FetchFailed, certificates

MAX_RESULTS = 8
MAX_PAUSE = 4.0  # seconds between two attempts
NOTHING = "No results found."  # as ddgs says it
NO_RESULTS = "the search engines gave no results: there are none, or they turn us away for asking too often."


@dataclass(frozen=True)
class Found:
    title: str
    url: str
    snippet: str


class SearchFailed(Exception):
    """The search could not be made; the text tells the model why."""


class Search(Protocol):
    async def search(self, query: str) -> list[Found]:
        """Results, best first; none when nothing was found; SearchFailed when it could not be made."""

    async def read(self, url: str) -> str:
        """A page's text; Refused or FetchFailed."""

    async def own_page(self, url: str) -> str | None:
        """The text of a page that the search server itself has; None when it has not; FetchFailed."""


def make_search(settings: Settings) -> Search:
    fetch = Fetcher(allowed_hosts=frozenset(settings.fetch_allowed_hosts))
    if settings.search_backend != "ddgs":
        return SearXNG(settings.search_url, fetch)
    return DuckDuckGo(
        fetch,
        region=settings.search_region,
        safesearch=settings.search_safe,
        cache_seconds=settings.cache_ttl_seconds,
    )


def listed(hits: Iterable[tuple[str | None, str, str | None]]) -> list[Found]:
    """Results (title, URL, snippet) that lead to the web, as three lines of bounded length each.

    A text with lines of its own could pose as another result, and a `javascript:` link is none to follow.
    """

    def line(text: str | None, most: int) -> str:
        return " ".join((text or "").split())[:most]

    web = [hit for hit in hits if re.fullmatch(r"https?://\S+", hit[1])]
    return [
        Found(line(title, 200) or url, url, line(snippet, 500)) for title, url, snippet in web[:MAX_RESULTS]
    ]


class Hit(BaseModel):
    title: str | None = None
    url: str
    content: str | None = None


class Reply(BaseModel):
    """What we read of SearXNG's JSON: https://docs.searxng.org/dev/search_api.html"""

    results: list[Hit]


class SearXNG:
    """Asks a SearXNG server whose settings allow the format `json`.

    The offline model's server speaks the same, and gives the pages of its library at `/page`.
    """

    def __init__(self, url: str, fetch: Fetcher, timeout: float = 10) -> None:
        """`timeout`: seconds for a search, and for a page of the server's own."""
        self.url, self.fetch, self.timeout = url.rstrip("/"), fetch, timeout

    async def search(self, query: str) -> list[Found]:
        try:
            response = await self.ask("/search", {"q": query, "format": "json"})
            hits = Reply.model_validate_json(response.raise_for_status().content).results
        except TimeoutError:
            raise SearchFailed(f"the search server took longer than {self.timeout:g} seconds.") from None
        except httpx2.HTTPStatusError as error:
            raise SearchFailed(f"the search server answered {error.response.status_code}.") from None
        except httpx2.HTTPError:
            raise SearchFailed("the search server could not be reached.") from None
        except ValidationError:
            raise SearchFailed("the search server's answer was not understood.") from None
        return listed((hit.title, hit.url, hit.content) for hit in hits)

    async def read(self, url: str) -> str:
        own = await self.own_page(url)
        return await self.fetch.read(url) if own is None else self.fetch.cut(own)

    async def own_page(self, url: str) -> str | None:
        try:
            response = await self.ask("/page", {"url": url})
        except (TimeoutError, httpx2.HTTPError):
            raise FetchFailed("the search server did not answer.") from None
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise FetchFailed(f"the search server answered {response.status_code}.")
        return response.text

    async def ask(self, path: str, query: dict[str, str]) -> httpx2.Response:
        async with asyncio.timeout(self.timeout), httpx2.AsyncClient(verify=certificates()) as client:
            return await client.get(self.url + path, params=query, timeout=None)


# What asks the engines: query, region, safe search, seconds; results as ddgs gives them.
Ask = Callable[[str, str, str, int], list[dict[str, Any]]]


def ask_engines(query: str, region: str, safesearch: str, timeout: int) -> list[dict[str, Any]]:
    # Two engines, asked at the same time: with more, ddgs asks in turns, and each takes up to the timeout.
    engines = "duckduckgo, brave"
    return DDGS(timeout=timeout).text(
        query, region=region, safesearch=safesearch, max_results=MAX_RESULTS, backend=engines
    )


class DuckDuckGo:
    """Asks DuckDuckGo and Brave by the ddgs library, which reads their result pages.

    They turn away who asks too often, and ddgs says of that what it says when there is nothing to be found.
    So no results are a failed search here, never an empty one.
    """

    def __init__(
        self,
        fetch: Fetcher,
        *,
        region: str = "us-en",
        safesearch: str = "moderate",
        retries: int = 3,
        timeout: float = 10,
        backoff: float = 0.5,
        cache_seconds: float = 300,
        ask: Ask = ask_engines,
    ) -> None:
        """`timeout`: seconds for a search with all its retries; `backoff`: seconds, doubled at each."""
        self.fetch, self.region, self.safesearch, self.ask = fetch, region, safesearch, ask
        self.retries, self.timeout, self.backoff = retries, timeout, backoff
        self.cache: TTLCache[str, list[Found]] = TTLCache(256, cache_seconds)
        # ddgs blocks, and its threads cannot be stopped: some of our own, that nothing else waits for.
        self.threads = ThreadPoolExecutor(4, "ddgs")

    async def search(self, query: str) -> list[Found]:
        results = self.cache.get(query)
        if results is None:
            try:
                async with asyncio.timeout(self.timeout):
                    results = self.cache[query] = await self.retried(query)
            except TimeoutError:
                raise SearchFailed(f"the search engines took longer than {self.timeout:g} seconds.") from None
        return results

    async def retried(self, query: str) -> list[Found]:
        """Try again what may pass, after a pause that grows and is random: together is how crowds come back.

        Full jitter, see https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        deadline = time.monotonic() + self.timeout
        attempt = 0
        while True:
            try:
                left = math.ceil(deadline - time.monotonic())
                asked = partial(self.ask, query, self.region, self.safesearch, left)
                hits = await asyncio.get_running_loop().run_in_executor(self.threads, asked)
                return listed((hit["title"], hit["href"], hit["body"]) for hit in hits)
            except DDGSException as error:
                nothing = str(error) == NOTHING
                passing = nothing or isinstance(error, (RatelimitException, TimeoutException))
                if not passing:
                    raise SearchFailed("the search engines could not be reached.") from None
                if attempt == self.retries:
                    told = NO_RESULTS if nothing else "the search engines are busy, or turn us away."
                    raise SearchFailed(told) from None
            await asyncio.sleep(random.uniform(0, min(MAX_PAUSE, self.backoff * 2**attempt)))  # noqa: S311
            attempt += 1

    async def read(self, url: str) -> str:
        return await self.fetch.read(url)

    async def own_page(self, url: str) -> str | None:
        return None
