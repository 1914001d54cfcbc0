"""Fetch a web page as text, from public addresses only.

The model chooses the URL, and a page that it has read can influence its choice. Without these checks an
attacker could make the agent request addresses inside our network (server-side request forgery, SSRF), see
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

from app.research.html_text import body_to_text

MAX_REDIRECTS = 5
DEFAULT_PORTS = {"http": 80, "https": 443}
USER_AGENT = "research-agent/1.0 (fetches single pages on request)"
TEXT_TYPES = re.compile(r"text/(html|plain|markdown|x-markdown)|application/(xhtml\+xml|([\w.-]+\+)?json)")
TRUNCATION_NOTE = "\n\n[This page was cut off here: it is too long to read in full.]"

GLOBAL_UNICAST = ip_network("2000::/3")
NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last four bytes
# Metadata services of Oracle's and Azure's clouds, for whose addresses `is_global` is true.
METADATA_NETWORKS = [ip_network("192.0.0.0/24"), ip_network("168.63.129.16/32")]

Resolve = Callable[[str, int], Awaitable[list[str]]]


class BlockedURL(Exception):
    """This URL may not be fetched; the message tells the model why."""


class FetchFailed(Exception):
    """The page could not be fetched; the message tells the model why."""


# getaddrinfo cannot be cancelled. It gets threads of its own, so that a slow DNS server delays nothing else.
dns_threads = ThreadPoolExecutor(16, "dns")
# Limits the DNS lookups of one run. A lookup whose result is no longer awaited counts until its thread ends.
run_lookups: ContextVar[asyncio.Semaphore | None] = ContextVar("run_lookups", default=None)


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, the preferred one first."""
    semaphore = run_lookups.get() or asyncio.Semaphore(1)
    await semaphore.acquire()
    getaddrinfo = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    lookup = asyncio.get_running_loop().run_in_executor(dns_threads, getaddrinfo)
    lookup.add_done_callback(lambda _: semaphore.release())
    infos = await asyncio.shield(lookup)
    return list(dict.fromkeys(str(address[0]) for *_, address in infos))


def is_public(address: str | IPv4Address) -> bool:
    """Return whether an address is on the internet. An IPv4 address embedded in IPv6 is checked as IPv4."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        embedded = IPv4Address(ip.packed[-4:]) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour
        if embedded:
            return is_public(embedded)
        if ip not in GLOBAL_UNICAST or ip.teredo:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in METADATA_NETWORKS)


@cache
def tls_context() -> ssl.SSLContext:
    """Return the TLS context with the trusted certificates: shared, because loading them is slow."""
    return httpx2.create_ssl_context()


def may_fetch(url: str, question: str, found: Iterable[str]) -> bool:
    """Return whether a search found exactly this URL, or the question contains it (a scheme is not needed).

    A page could tell the model to append the question, or other pages' text, to an attacker's URL, and the
    attacker's server would log it (data exfiltration). So the model may only fetch URLs that a search
    returned or the question contains.
    """
    if url.partition("#")[0] in {known.partition("#")[0] for known in found}:
        return True
    words = re.split(r"[\s<>\"'`]+", question)
    mentioned = {without_scheme(word) for each in words for word in (each, each.strip("([{*_.,;:!?)]}"))}
    return without_scheme(url) in mentioned - {""}


def without_scheme(url: str) -> str:
    """Return a URL without scheme, fragment and trailing slashes."""
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
        """`timeout`: seconds for a page with all its redirects; `max_bytes`: of a decompressed body.

        `allowed_hosts`: private hosts that may be read, such as an intranet's, as HOST or HOST:PORT.
        """
        self.timeout, self.max_bytes, self.max_chars = timeout, max_bytes, max_chars
        self.allowed_hosts, self.resolve = allowed_hosts, resolve
        self.tls = tls_context()

    async def read(self, url: str) -> str:
        """Return the page's text, truncated if it is too long. Raises BlockedURL or FetchFailed."""
        try:
            async with asyncio.timeout(self.timeout):
                location = httpx2.URL(url)
                for _ in range(MAX_REDIRECTS + 1):
                    result = await self.request(location, await self.allowed_addresses(location))
                    if isinstance(result, str):
                        return result
                    location = result
        except httpx2.InvalidURL:
            raise BlockedURL("this is not a valid URL.") from None
        except TimeoutError:
            raise FetchFailed(f"it took longer than {self.timeout:g} seconds.") from None
        except httpx2.HTTPError:
            raise FetchFailed("its server could not be reached, or broke off the response.") from None
        raise FetchFailed(f"it redirects more than {MAX_REDIRECTS} times.")

    async def allowed_addresses(self, url: httpx2.URL) -> list[str]:
        """Return the addresses to connect to for this URL. Raises BlockedURL if it may not be fetched."""
        host = url.raw_host.decode("ascii").removesuffix(".")
        if url.scheme not in DEFAULT_PORTS or not host:
            raise BlockedURL("only http and https URLs may be read.")
        if url.userinfo:
            raise BlockedURL("a URL with a user name or password may not be read.")
        port = DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        allowed = not self.allowed_hosts.isdisjoint({url.netloc.decode("ascii"), f"{host}:{port}"})
        if port not in DEFAULT_PORTS.values() and not allowed:
            raise BlockedURL("only the ports 80 and 443 may be read.")
        try:
            addresses = await self.resolve(host, port)
        except (OSError, UnicodeError):
            raise FetchFailed("the name of its host could not be resolved.") from None
        # One private address blocks the name: no legitimate site publishes one among its public addresses.
        if not allowed and not all(is_public(address) for address in addresses):
            raise BlockedURL("only public addresses may be read, and this host's is private.")
        return addresses

    async def request(self, url: httpx2.URL, addresses: list[str]) -> str | httpx2.URL:
        """Request a page from the first reachable address; return its text, or the URL it redirects to.

        Connect to the addresses that were checked, because a second DNS lookup can return other addresses
        (DNS rebinding). A proxy would look the name up itself, so proxies from the environment are unused.
        Each request has its own client, so that hosts that share an address share no cookies or connections.
        """
        limits = httpx2.Timeout(self.timeout, connect=self.timeout / 3)
        headers = {"User-Agent": USER_AGENT, "Accept": "text/html, text/*;q=0.9, application/json;q=0.8"}
        headers |= {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "gzip"}
        sni = {"sni_hostname": url.raw_host.decode("ascii").removesuffix(".")}
        for address in addresses:
            async with httpx2.AsyncClient(verify=self.tls, trust_env=False, timeout=limits) as client:
                try:
                    target = url.copy_with(host=address, fragment=None)
                    async with client.stream("GET", target, headers=headers, extensions=sni) as response:
                        return await self.read_response(url, response)
                except (httpx2.ConnectError, httpx2.ConnectTimeout):
                    continue
        raise FetchFailed("its server could not be reached.")

    async def read_response(self, url: httpx2.URL, response: httpx2.Response) -> str | httpx2.URL:
        """Return the response's text, or the URL it redirects to. Raises FetchFailed if it is not text."""
        if response.has_redirect_location:
            return url.join(response.headers["location"])
        if response.status_code != 200:
            raise FetchFailed(f"its server answered {response.status_code}.")
        content_type, _, parameters = response.headers.get("content-type", "").lower().partition(";")
        if not TEXT_TYPES.fullmatch(content_type.strip()):
            raise FetchFailed("it is not text.")
        if "," in response.headers.get("content-encoding", ""):
            raise FetchFailed("it is compressed more than once.")  # as decompression bombs are
        body = bytearray()
        async with aclosing(response.aiter_bytes()) as chunks:  # decompressed, at most a megabyte each
            async for chunk in chunks:
                body += chunk
                if len(body) > self.max_bytes:
                    break
        # In a thread, because a large page takes tenths of a second to parse.
        text = await asyncio.to_thread(
            body_to_text, bytes(body[: self.max_bytes]), content_type.strip(), parameters
        )
        if not text:
            raise FetchFailed("it has no text.")
        return self.truncate(text, incomplete=len(body) > self.max_bytes)

    def truncate(self, text: str, *, incomplete: bool = False) -> str:
        """Cut a text that is too long, and append a note to a text that was cut or is `incomplete`."""
        if not incomplete and len(text) <= self.max_chars:
            return text
        return text[: self.max_chars] + TRUNCATION_NOTE
