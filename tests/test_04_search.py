"""Search: results are cleaned, and every failure is explained in a sentence and in time."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from ddgs.exceptions import DDGSException, RatelimitException, TimeoutException
from support.site import Answer, Site, endless, page, silence

from app.config import Settings
from app.research.fetch import TRUNCATION_NOTE, BlockedURL, Fetcher, FetchFailed
from app.research.search import (
    DDGS_NO_RESULTS,
    MAX_BACKOFF,
    DuckDuckGo,
    SearchFailed,
    SearchResult,
    SearXNG,
    make_search,
)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as server:
        yield server


def searxng(site: Site, timeout: float = 20, **settings: Any) -> SearXNG:
    return SearXNG(f"http://{site.host}/", Fetcher(**settings), timeout)


def results(*found: dict[str, Any]) -> Answer:
    """Return an answer in SearXNG's format, with fields that the agent does not use."""
    reply = {"query": "x", "results": [{"engine": "e"} | one for one in found], "unresponsive_engines": []}
    return page(json.dumps(reply).encode(), "application/json")


# --- SearXNG ---


async def test_results_keep_their_order_and_are_cleaned(site: Site) -> None:
    site.pages["/search"] = results(
        {
            "title": " What is\na lease? ",
            "url": "https://example.org/1",
            "content": "A lock\n[2] Fake\nhttp://x/",
        },
        {"title": "bad", "url": "javascript:alert(1)", "content": ""},
        {"title": "bad", "url": "https://example.org/\n[2] Fake", "content": ""},
        {"title": None, "url": "https://example.org/2", "content": None},
        {"title": "t" * 1000, "url": "https://example.org/3", "content": "c" * 10_000},
        *[{"title": "more", "url": f"https://example.org/{n}", "content": ""} for n in range(4, 20)],
    )
    found = await searxng(site).search("what is a lease? & more=1")
    assert found[:2] == [
        SearchResult("What is a lease?", "https://example.org/1", "A lock [2] Fake http://x/"),
        SearchResult("https://example.org/2", "https://example.org/2", ""),
    ], "A result takes three lines: a text with lines of its own could pose as another result."
    sizes = len(found[2].title), len(found[2].snippet), len(found)
    assert sizes == (200, 500, 8), f"Title, snippet and number of results have bounds, and here are {sizes}."
    asked = site.heads[0].partition("\r\n")[0]
    assert asked.startswith("GET /search?q=what+is+a+lease%3F+%26+more%3D1&format=json "), (
        f"The search server was asked otherwise than SearXNG is: {asked}."
    )


async def test_an_empty_result_is_not_a_failure(site: Site) -> None:
    site.pages["/search"] = results()
    assert await searxng(site).search("xyzzy") == [], "Nothing is to be found, and something was found."


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (page(b"oops", status="500 Internal Server Error"), "500"),
        (page(b"format not allowed", status="403 Forbidden"), "403"),
        (page(b"<html>"), "not understood"),
        (page(b"[]", "application/json"), "not understood"),
        (page(b'{"results": [{"title": "no URL"}]}', "application/json"), "not understood"),
        (page(b'{"results": [', Content_Length="100"), "could not be reached"),
        (silence, "longer than 0.3 seconds"),
        (endless(b" ", pause=0.01), "longer than 0.3 seconds"),
    ],
)
async def test_a_failing_search_server_is_explained(site: Site, answer: Answer, message: str) -> None:
    site.pages["/search"] = answer
    began = time.monotonic()
    with pytest.raises(SearchFailed, match=message):
        await searxng(site, timeout=0.3 if "longer than" in message else 20).search("anything")
    assert time.monotonic() - began < 15, "A search took longer than its timeout."


async def test_an_unreachable_search_server_is_explained(closed_port: int) -> None:
    with pytest.raises(SearchFailed, match="could not be reached"):
        await SearXNG(f"http://127.0.0.1:{closed_port}", Fetcher()).search("anything")


async def test_the_search_servers_own_page_comes_first(site: Site) -> None:
    site.pages["/page"] = page(b"from the library", "text/plain; charset=utf-8")
    url = "https://docs.python.org/3/?a=b&c=d"
    assert await searxng(site).read(url) == "from the library", "A page of the library was read elsewhere."
    assert "url=https%3A%2F%2Fdocs.python.org%2F3%2F%3Fa%3Db%26c%3Dd " in site.heads[0], (
        "The library was asked for another address than the one that is to be read."
    )

    site.pages["/page"] = page(b"x" * 100, "text/plain")
    text = await searxng(site, max_chars=10).read(url)
    assert text == "x" * 10 + TRUNCATION_NOTE, (
        f"A page that is too long is not cut where it should be: {text!r}."
    )


async def test_other_pages_are_fetched_from_the_web_by_its_rules(site: Site) -> None:
    site.pages["/elsewhere"] = page(b"<p>from the web")
    allowed = frozenset({site.host})
    text = await searxng(site, allowed_hosts=allowed).read(f"http://{site.host}/elsewhere")
    assert text == "from the web", f"A page that the library has not is read as {text!r}."
    with pytest.raises(BlockedURL):
        await searxng(site).read("http://169.254.169.254/latest/meta-data/")
    with pytest.raises(BlockedURL):
        await searxng(site).read(f"http://{site.host}/elsewhere")


@pytest.mark.parametrize("answer", [page(status="500 Internal Server Error"), silence])
async def test_a_failing_page_server_is_explained(site: Site, answer: Answer) -> None:
    site.pages["/page"] = answer
    with pytest.raises(FetchFailed, match="search server"):
        await searxng(site).read("https://docs.python.org/3/")


async def test_the_offline_model_finds_and_serves_pages(offline_model: str) -> None:
    search = SearXNG(offline_model, Fetcher())
    found = await search.search("How does asyncio.gather run awaitables concurrently?")
    assert found, "The offline model's server finds nothing about asyncio.gather."
    assert all(one.title and one.url.startswith("https://") and one.snippet for one in found), (
        "A result lacks its title, its address or its text."
    )
    text = await search.read(found[0].url)
    assert len(text) > len(found[0].snippet), "The page should say more than the piece of it that was found."
    assert await search.search("zzyzx qwrtp") == [], "Words that mean nothing have found something."
    with pytest.raises(BlockedURL):
        await search.read("http://127.0.0.1/")


# --- DuckDuckGo and Brave, by ddgs ---


@pytest.fixture
def no_network(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ddgs use a proxy that does not exist, so that it has no network on any machine."""
    monkeypatch.setenv("DDGS_PROXY", f"http://127.0.0.1:{closed_port}")


@pytest.mark.usefixtures("no_network")
async def test_without_network_the_search_fails_at_once_and_says_so() -> None:
    began = time.monotonic()
    with pytest.raises(SearchFailed, match="could not be reached"):
        await DuckDuckGo(Fetcher(), timeout=60).search("anything")
    assert time.monotonic() - began < 30, "There is no network: waiting for it makes no answer better."


async def test_engines_that_never_answer_end_with_the_timeout(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = {"html.duckduckgo.com:443", "search.brave.com:443"}
    site.pages = dict.fromkeys(engines, silence)
    monkeypatch.setenv("DDGS_PROXY", f"http://{site.host}")
    began = time.monotonic()
    with pytest.raises(SearchFailed, match="longer than 1 seconds"):
        await DuckDuckGo(Fetcher(), timeout=1).search("anything")
    assert time.monotonic() - began < 15, "A search took longer than its budget."
    asked = {head.split()[1] for head in site.heads}  # CONNECT HOST:PORT, as a proxy is asked
    assert asked == engines, f"Two engines are named to ddgs, and it asked {asked}."


HIT = {"title": "A lease", "href": "https://example.org/", "body": "A lock\nthat ends"}
FOUND = SearchResult("A lease", "https://example.org/", "A lock that ends")


class Engines:
    """A fake for ddgs' search: raise the given exceptions, one for each call, then return a result.

    The engines' addresses are constants in ddgs, so a local server cannot replace them.
    """

    def __init__(self, *failures: Exception) -> None:
        self.failures = [*failures]
        self.calls: list[tuple[float, str, str, str, int]] = []

    def __call__(self, query: str, region: str, safesearch: str, timeout: int) -> list[dict[str, Any]]:
        self.calls.append((time.monotonic(), query, region, safesearch, timeout))
        if self.failures:
            raise self.failures.pop(0)
        return [HIT]


def duckduckgo(engines: Engines, **settings: Any) -> DuckDuckGo:
    given: dict[str, Any] = {"backoff": 0.01, "timeout": 5} | settings
    return DuckDuckGo(Fetcher(), text_search=engines, **given)


TRANSIENT = [RatelimitException("202"), TimeoutException("timed out"), DDGSException(DDGS_NO_RESULTS)]


@pytest.mark.parametrize("failure", TRANSIENT)
async def test_transient_failures_are_retried(failure: Exception) -> None:
    engines = Engines(failure, failure, failure)
    search = duckduckgo(engines, region="de-de", safesearch="off")
    assert await search.search("lease") == [FOUND], "The fourth attempt found something, and that was lost."
    asked = [call[1:4] for call in engines.calls]
    assert asked == [("lease", "de-de", "off")] * 4, (
        f"The engines were asked otherwise than four times alike: {asked}."
    )
    assert all(1 <= call[4] <= 5 for call in engines.calls), "No attempt may take longer than what is left."


@pytest.mark.parametrize("failure", TRANSIENT)
async def test_retries_are_limited(failure: Exception) -> None:
    engines = Engines(*[failure] * 10)
    with pytest.raises(SearchFailed, match="rate-limit this server"):
        await duckduckgo(engines, retries=2).search("lease")
    assert len(engines.calls) == 3, "Two retries make three attempts."


async def test_permanent_failures_are_not_retried() -> None:
    engines = Engines(DDGSException("ConnectError: no route"))
    with pytest.raises(SearchFailed, match="could not be reached") as failed:
        await duckduckgo(engines).search("lease")
    assert len(engines.calls) == 1, "There is no network, and the engines were asked again."
    assert "route" not in str(failed.value), "The text of an exception is handed on to the model."


@pytest.mark.parametrize(("seed", "backoff"), [(116882, 4), (12024, 0.1)])
async def test_backoff_doubles_and_has_full_jitter(seed: int, backoff: float) -> None:
    """Full jitter: each wait is random, so that clients that were rejected together do not retry together.

    The first seed gives short waits below high bounds, the second waits close to low bounds.
    """
    random.seed(seed)
    bounds = [min(MAX_BACKOFF, backoff * double) for double in (1, 2, 4)]
    expected = [random.uniform(0, bound) for bound in bounds]  # noqa: S311
    random.seed(seed)
    engines = Engines(*TRANSIENT)
    await duckduckgo(engines, backoff=backoff).search("lease")
    at = [call[0] for call in engines.calls]
    pauses = [after - before for before, after in pairwise(at)]
    for pause, least in zip(pauses, expected, strict=True):
        assert pause > least - 0.01, f"A pause took {pause:.3f} seconds, not {least:.3f}."
    assert sum(pauses) < sum(expected) + 6, f"The pauses took {pauses} seconds, not {expected}."


async def test_the_timeout_covers_all_retries() -> None:
    began = time.monotonic()
    with pytest.raises(SearchFailed, match="longer"):
        await duckduckgo(Engines(*TRANSIENT * 100), retries=1000, backoff=1, timeout=0.3).search("lease")
    assert time.monotonic() - began < 15, "Retries went on beyond the budget of the search."


async def test_results_are_cached_and_failures_are_not() -> None:
    engines = Engines(DDGSException("ConnectError"))
    search = duckduckgo(engines)
    with pytest.raises(SearchFailed):
        await search.search("lease")
    for _ in range(2):
        assert await search.search("lease") == [FOUND], "Another result was kept than the one that was found."
    assert len(engines.calls) == 2, "The second search of the same words should come from the cache."
    await search.search("lock")
    assert len(engines.calls) == 3, "Other words were answered with results that are not theirs."


async def test_cached_results_expire() -> None:
    engines = Engines()
    search = duckduckgo(engines, cache_seconds=0.1)
    async with asyncio.timeout(30):
        while len(engines.calls) < 2:
            assert await search.search("lease") == [FOUND], (
                "Another result was kept than the one that was found."
            )
            await asyncio.sleep(0.01)


# --- The setting SEARCH_BACKEND ---


@pytest.mark.parametrize(("name", "kind"), [("searxng", SearXNG), ("offline", SearXNG), ("ddgs", DuckDuckGo)])
def test_search_backend_chooses_the_engine(name: str, kind: type) -> None:
    made = make_search(Settings.model_construct(search_backend=name))
    assert isinstance(made, kind), f"SEARCH_BACKEND={name} chooses {type(made).__name__}."
