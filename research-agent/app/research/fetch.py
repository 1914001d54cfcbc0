"""Reads a page of the web as text, and reaches only what the whole world may reach.

The model chooses the URL, and whoever wrote the page it has just read may have chosen for it. Without this
guard the agent would fetch from inside our network whatever it is told to: server-side request forgery, see
https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from contextvars import ContextVar
from functools import cache, partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx2

from app.research.html_text import to_text

MAX_REDIRECTS = 5
PORTS = {"http": 80, "https": 443}
USER_AGENT = "research-agent/1.0 (reads single pages that somebody asks about)"
TEXT = re.compile(r"text/(html|plain|markdown|x-markdown)|application/(xhtml\+xml|([\w.-]+\+)?json)")
CUT = "\n\n[The page is longer: this is its beginning.]"

GLOBAL_UNICAST = ip_network("2000::/3")
NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last four bytes
# Not for the world although `is_global` says so: metadata of Oracle's cloud, and of Azure's.
METADATA = [ip_network("192.0.0.0/24"), ip_network("168.63.129.16/32")]

Resolve = Callable[[str, int], Awaitable[list[str]]]


class Refused(Exception):
    """The page may not be read; the text tells the model why."""


class FetchFailed(Exception):
    """The page could not be read; the text tells the model why."""


# getaddrinfo cannot be cancelled. It has threads of its own, so that names that hang delay nothing else.
lookup_threads = ThreadPoolExecutor(16, "lookup")
run_lookups: ContextVar[asyncio.Semaphore | None] = ContextVar("run_lookups", default=None)
"""How many look-ups a run may have at once; one that it gave up counts until its thread ends."""


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, the best first."""
    slot = run_lookups.get() or asyncio.Semaphore(1)
    await slot.acquire()
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    answer = asyncio.get_running_loop().run_in_executor(lookup_threads, look_up)
    answer.add_done_callback(lambda _: slot.release())
    found = await asyncio.shield(answer)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str | IPv4Address) -> bool:
    """Whether an address belongs to the internet; an IPv4 address inside an IPv6 one counts as itself."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inside = IPv4Address(ip.packed[-4:]) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour
        if inside:
            return is_public(inside)
        if ip not in GLOBAL_UNICAST or ip.teredo:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in METADATA)


@cache
def certificates() -> ssl.SSLContext:
    """Whom to trust; the same for all, because it takes long to read."""
    return httpx2.create_ssl_context()


def may_fetch(url: str, question: str, found: Iterable[str]) -> bool:
    """Whether a search has found this very URL, or the question contains it, with or without its scheme.

    A page could tell the model to append the question, or what it has read elsewhere, to a URL of the page's
    author, who would then read it in a log. So the model chooses among URLs, and writes none of its own.
    """
    if url.partition("#")[0] in {known.partition("#")[0] for known in found}:
        return True
    words = re.split(r"[\s<>\"'`]+", question)
    asked = {bare(word) for each in words for word in (each, each.strip("([{*_.,;:!?)]}"))}
    return bare(url) in asked - {""}


def bare(url: str) -> str:
    return re.sub(r"^https?://", "", url.partition("#")[0], flags=re.IGNORECASE).rstrip("/")


class Fetcher:
    def __init__(
        self,
        *,
        timeout: float = 10,
        max_bytes: int = 1_000_000,
        max_chars: int = 20_000,
        allowed_hosts: frozenset[str] = frozenset(),
        resolve: Resolve = resolve,
    ) -> None:
        """`timeout`: seconds for a page with all its redirects; `max_bytes`: of a body, after decompression.

        `allowed_hosts`: HOST or HOST:PORT, private ones that may be read nonetheless, such as an intranet's.
        """
        self.timeout, self.max_bytes, self.max_chars = timeout, max_bytes, max_chars
        self.allowed_hosts, self.resolve = allowed_hosts, resolve
        self.tls = certificates()

    async def read(self, url: str) -> str:
        """The page's text, cut where it is too long; Refused or FetchFailed."""
        try:
            async with asyncio.timeout(self.timeout):
                at = httpx2.URL(url)
                for _ in range(MAX_REDIRECTS + 1):
                    answer = await self.get(at, await self.checked(at))
                    if isinstance(answer, str):
                        return answer
                    at = answer
        except httpx2.InvalidURL:
            raise Refused("this is not a valid URL.") from None
        except TimeoutError:
            raise FetchFailed(f"it took longer than {self.timeout:g} seconds.") from None
        except httpx2.HTTPError:
            raise FetchFailed("its server could not be reached, or broke off.") from None
        raise FetchFailed(f"it redirects more than {MAX_REDIRECTS} times.")

    async def checked(self, url: httpx2.URL) -> list[str]:
        """The addresses that a connection for this URL may go to; Refused when it may go nowhere."""
        host = url.raw_host.decode("ascii").removesuffix(".")
        if url.scheme not in PORTS or not host:
            raise Refused("only http and https URLs may be read.")
        if url.userinfo:
            raise Refused("a URL with a user name or password may not be read.")
        port = PORTS[url.scheme] if url.port is None else url.port
        allowed = not self.allowed_hosts.isdisjoint({url.netloc.decode("ascii"), f"{host}:{port}"})
        if port not in PORTS.values() and not allowed:
            raise Refused("only the ports 80 and 443 may be read.")
        try:
            addresses = await self.resolve(host, port)
        except (OSError, UnicodeError):
            raise FetchFailed("the name of its host could not be resolved.") from None
        # One private address among public ones is reason enough: nobody honest publishes such a name.
        if not allowed and not all(is_public(address) for address in addresses):
            raise Refused("only public addresses may be read, and this host's is private.")
        return addresses

    async def get(self, url: httpx2.URL, addresses: list[str]) -> str | httpx2.URL:
        """The text of a page, or where it redirects to; asks the first of the addresses that can be reached.

        The connection goes to the very address that was checked: a name resolved a second time may answer
        otherwise (DNS rebinding). That is also why no proxy of the environment is used: it would resolve the
        name itself. Each request has a client of its own, so that neither cookies nor connections are shared
        between hosts that have one address.
        """
        limits = httpx2.Timeout(self.timeout, connect=self.timeout / 3)
        headers = {"User-Agent": USER_AGENT, "Accept": "text/html, text/*;q=0.9, application/json;q=0.8"}
        headers |= {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "gzip"}
        name = {"sni_hostname": url.raw_host.decode("ascii").removesuffix(".")}
        for address in addresses:
            async with httpx2.AsyncClient(verify=self.tls, trust_env=False, timeout=limits) as client:
                try:
                    there = url.copy_with(host=address, fragment=None)
                    async with client.stream("GET", there, headers=headers, extensions=name) as response:
                        return await self.take(url, response)
                except (httpx2.ConnectError, httpx2.ConnectTimeout):
                    continue
        raise FetchFailed("its server could not be reached.")

    async def take(self, url: httpx2.URL, response: httpx2.Response) -> str | httpx2.URL:
        if response.has_redirect_location:
            return url.join(response.headers["location"])
        if response.status_code != 200:
            raise FetchFailed(f"its server answered {response.status_code}.")
        kind, _, parameters = response.headers.get("content-type", "").lower().partition(";")
        if not TEXT.fullmatch(kind.strip()):
            raise FetchFailed("it is not text.")
        if "," in response.headers.get("content-encoding", ""):
            raise FetchFailed("it is compressed more than once.")  # only a bomb is
        body = bytearray()
        async with aclosing(response.aiter_bytes()) as pieces:  # decompressed, at most a megabyte each
            async for piece in pieces:
                body += piece
                if len(body) > self.max_bytes:
                    break
        # In a thread, because a large page keeps a processor busy for a while.
        text = await asyncio.to_thread(to_text, bytes(body[: self.max_bytes]), kind.strip(), parameters)
        if not text:
            raise FetchFailed("it has no text.")
        return self.cut(text, len(body) > self.max_bytes)

    def cut(self, text: str, longer: bool = False) -> str:
        """The beginning of a text that is too long, and a note that says so."""
        return text[: self.max_chars] + CUT if longer or len(text) > self.max_chars else text
