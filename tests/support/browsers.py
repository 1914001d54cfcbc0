"""A browser, pages in it whose console is watched, and a proxy that a test can cut."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from support.engines import require
from support.plugins.faults import fault_of


# Module scope, because no other test can use asyncio while Playwright's synchronous API runs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = require("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        with closing(browser):
            yield browser


class Visits:
    """Open pages, each in its own browser context, and record the console's errors and warnings."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.contexts: list[BrowserContext] = []
        self.console_errors: list[str] = []
        self.expected: list[str] = []

    def __call__(self, url: str, script: str = "", **options: Any) -> Page:
        """Open a page that runs `script` before its own scripts."""
        context = self.browser.new_context(**options)
        self.contexts.append(context)
        context.set_default_timeout(30_000)
        context.add_init_script(script)
        page = context.new_page()
        page.on("console", self.record_message)
        page.on("pageerror", lambda error: self.console_errors.append(f"uncaught: {error}"))
        page.goto(url)
        return page

    def record_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console_errors.append(message.text)

    def close(self) -> None:
        for context in self.contexts:
            context.close()

    def assert_no_console_errors(self) -> None:
        unexpected = [text for text in self.console_errors if not any(each in text for each in self.expected)]
        assert not unexpected, f"The browser complained (a policy broken, an error): {unexpected}."


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visits]:
    expect.set_options(timeout=30_000)
    visits, failed_before = Visits(browser), request.session.testsfailed
    yield visits
    visits.close()
    # A test that has failed, as it must on a broken copy, has already said what is wrong.
    if request.session.testsfailed == failed_before and fault_of(request.node) is None:
        visits.assert_no_console_errors()


class FlakyProxy:
    """A TCP proxy to a server that a test can cut, make silent, and repair."""

    def __init__(self, server: str) -> None:
        self.target = urlsplit(server).port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.accepting = True
        self.sockets: list[socket.socket] = []
        self.speaker: socket.socket | None = None  # the side that sent data last
        self.silent: socket.socket | None = None
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):  # closed: the end
            while True:
                near, _ = self.listener.accept()
                if not self.accepting:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += near, far
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.forward, args=pair, daemon=True).start()

    def forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # cut
            while data := source.recv(65_536):
                self.speaker = source
                if source is not self.silent:
                    sink.sendall(data)
        with suppress(OSError):
            if source is not self.silent:
                sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Close all connections and accept no new ones."""
        self.accepting = False
        while self.sockets:
            end = self.sockets.pop()
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def fall_silent(self) -> None:
        """Drop all further data from the side that sent data last."""
        self.silent = self.speaker

    def repair(self) -> None:
        self.accepting = True

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


@pytest.fixture
def flaky_proxies() -> Iterator[Callable[[str], FlakyProxy]]:
    opened: list[FlakyProxy] = []

    def proxy(server: str) -> FlakyProxy:
        opened.append(FlakyProxy(server))
        return opened[-1]

    yield proxy
    for each in opened:
        each.close()


def assert_accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    serious = [
        f"{each['help']}: {[node['html'] for node in each['nodes']]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert not serious, f"There are barriers on the page, which axe-core finds: {serious}."
