"""Web search by a SearXNG server (or the offline model, which speaks its API), or by DuckDuckGo and Brave."""

import asyncio
import math
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
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from app.config import Settings
from app.research.fetch import Fetcher, FetchFailed, tls_context

MAX_RESULTS = 8
MAX_BACKOFF = 4.0  # seconds
DDGS_NO_RESULTS = "No results found."  # the message of ddgs' exception
NO_RESULTS = (
    "the search engines returned no results: either there are none, or the engines rate-limit this server."
)


@dataclass(frozen=True)
class SearchResult:
    title: str
    url: str
    snippet: str


class SearchFailed(Exception):
    """The search could not be made; the message tells the model why."""


class Search(Protocol):
    async def search(self, query: str) -> list[SearchResult]:
        """Return results, best first; an empty list if nothing was found. Raises SearchFailed."""

    async def read(self, url: str) -> str:
        """Return a page's text. Raises BlockedURL or FetchFailed."""

    async def stored_page(self, url: str) -> str | None:
        """Return the text of a page that the search server itself stores, or None. Raises FetchFailed."""


def make_search(settings: Settings) -> Search:
    fetch = Fetcher(allowed_hosts=frozenset(settings.fetch_allowed_hosts))
    if settings.search_backend == "ddgs":
        return DuckDuckGo(
            fetch,
            region=settings.search_region,
            safesearch=settings.search_safe,
            cache_seconds=settings.cache_ttl_seconds,
        )
    return SearXNG(settings.search_url, fetch)


def clean_results(results: Iterable[tuple[str | None, str, str | None]]) -> list[SearchResult]:
    """Keep results (title, URL, snippet) whose URL is http or https, each text as one line of bounded length.

    A text with line breaks could look like another result, and a `javascript:` URL must not become a link.
    """

    def one_line(text: str | None, max_length: int) -> str:
        return " ".join((text or "").split())[:max_length]

    web = [result for result in results if re.fullmatch(r"https?://\S+", result[1])]
    return [
        SearchResult(one_line(title, 200) or url, url, one_line(snippet, 500))
        for title, url, snippet in web[:MAX_RESULTS]
    ]


class SearXNGResult(BaseModel):
    title: str | None = None
    url: str
    content: str | None = None


class SearXNGResponse(BaseModel):
    """The fields that we use of SearXNG's JSON: https://docs.searxng.org/dev/search_api.html"""

    results: list[SearXNGResult]


class SearXNG:
    """Search by a SearXNG server whose settings allow the format `json`.

    The offline model's server has the same API, and serves the pages of its corpus at `/page`.
    """

    def __init__(self, url: str, fetch: Fetcher, timeout: float = 10) -> None:
        """`timeout`: seconds for a search, and for a page that the server itself stores."""
        self.url, self.fetch, self.timeout = url.rstrip("/"), fetch, timeout

    async def search(self, query: str) -> list[SearchResult]:
        try:
            response = await self.request("/search", {"q": query, "format": "json"})
            results = SearXNGResponse.model_validate_json(response.raise_for_status().content).results
        except TimeoutError:
            raise SearchFailed(f"the search server took longer than {self.timeout:g} seconds.") from None
        except httpx2.HTTPStatusError as error:
            raise SearchFailed(f"the search server answered {error.response.status_code}.") from None
        except httpx2.HTTPError:
            raise SearchFailed("the search server could not be reached.") from None
        except ValidationError:
            raise SearchFailed("the search server's answer was not understood.") from None
        return clean_results((result.title, result.url, result.content) for result in results)

    async def read(self, url: str) -> str:
        stored = await self.stored_page(url)
        return await self.fetch.read(url) if stored is None else self.fetch.truncate(stored)

    async def stored_page(self, url: str) -> str | None:
        try:
            response = await self.request("/page", {"url": url})
        except (TimeoutError, httpx2.HTTPError):
            raise FetchFailed("the search server did not answer.") from None
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise FetchFailed(f"the search server answered {response.status_code}.")
        return response.text

    async def request(self, path: str, params: dict[str, str]) -> httpx2.Response:
        async with asyncio.timeout(self.timeout), httpx2.AsyncClient(verify=tls_context()) as client:
            return await client.get(self.url + path, params=params, timeout=None)


# A function that takes query, region, safe search and timeout (seconds), and returns results as ddgs does.
TextSearch = Callable[[str, str, str, int], list[dict[str, Any]]]


def ddgs_text_search(query: str, region: str, safesearch: str, timeout: int) -> list[dict[str, Any]]:
    # ddgs asks two engines at a time. With more, it would take several rounds of up to `timeout` each.
    engines = "duckduckgo, brave"
    return DDGS(timeout=timeout).text(
        query, region=region, safesearch=safesearch, max_results=MAX_RESULTS, backend=engines
    )


def is_no_results(error: BaseException) -> bool:
    return str(error) == DDGS_NO_RESULTS


def is_transient(error: BaseException) -> bool:
    return isinstance(error, (RatelimitException, TimeoutException)) or is_no_results(error)


class DuckDuckGo:
    """Search by DuckDuckGo and Brave with the ddgs library, which reads their result pages.

    The engines block clients that ask too often, and ddgs raises the same exception then as when there are no
    results. So a search without results counts as failed here, never as empty.
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
        text_search: TextSearch = ddgs_text_search,
    ) -> None:
        """`timeout`: seconds for a search with all its retries; `backoff`: seconds, doubled each time."""
        self.fetch, self.region, self.safesearch, self.text_search = fetch, region, safesearch, text_search
        self.retries, self.timeout, self.backoff = retries, timeout, backoff
        self.cache: TTLCache[str, list[SearchResult]] = TTLCache(256, cache_seconds)
        # ddgs blocks and cannot be cancelled, so it gets threads that nothing else waits for.
        self.threads = ThreadPoolExecutor(4, "ddgs")

    async def search(self, query: str) -> list[SearchResult]:
        results = self.cache.get(query)
        if results is None:
            try:
                async with asyncio.timeout(self.timeout):
                    results = self.cache[query] = await self.search_with_retries(query)
            except TimeoutError:
                raise SearchFailed(f"the search engines took longer than {self.timeout:g} seconds.") from None
        return results

    async def search_with_retries(self, query: str) -> list[SearchResult]:
        """Retry transient failures after a backoff; its jitter stops clients from retrying in lockstep."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(is_transient),
            wait=wait_random_exponential(multiplier=self.backoff, max=MAX_BACKOFF),
            stop=stop_after_attempt(self.retries + 1),
            reraise=True,
        )
        try:
            return await retrying(self.search_once, query, time.monotonic() + self.timeout)
        except DDGSException as error:
            if is_no_results(error):
                raise SearchFailed(NO_RESULTS) from None
            if is_transient(error):
                raise SearchFailed("the search engines are busy, or rate-limit this server.") from None
            raise SearchFailed("the search engines could not be reached.") from None

    async def search_once(self, query: str, deadline: float) -> list[SearchResult]:
        seconds = math.ceil(deadline - time.monotonic())
        call = partial(self.text_search, query, self.region, self.safesearch, seconds)
        results = await asyncio.get_running_loop().run_in_executor(self.threads, call)
        return clean_results((result["title"], result["href"], result["body"]) for result in results)

    async def read(self, url: str) -> str:
        return await self.fetch.read(url)

    async def stored_page(self, url: str) -> str | None:
        return None
