"""Lesson 04's web page, in a real browser with real servers."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest
from playwright.sync_api import Page, expect
from support.browsers import (  # fixtures, too
    FlakyProxy,
    Visits,
    assert_accessible,
    browser,  # noqa: F401
    flaky_proxies,  # noqa: F401
    visit,  # noqa: F401
)
from support.servers import Server, StartServer

QUESTION = "What is graceful shutdown?"
FIGURES = Path(__file__).parent.parent / "docs/figures"
PACED_MODEL = "offline?tps=50"  # slow enough for a test to act during the answer of about 80 tokens
XSS_ATTACK = "<img src=x onerror=\"document.title='executed'\">"


@pytest.fixture
def paced(start: StartServer) -> Server:
    return start(MODEL_NAME=PACED_MODEL)


def ask(page: Page, question: str = QUESTION) -> None:
    page.fill("#query", question)
    page.click("#send")


def finished(page: Page) -> None:
    expect(page.locator("#state"), "The run does not finish.").to_contain_text("Finished")


def begun(page: Page) -> None:
    expect(page.locator("#answer"), "No answer begins.").to_have_text(re.compile(r"\w+ \w+"))


def run_of(page: Page, server: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the page's run from the API."""
    run_id = page.url.partition("#run=")[2]
    run: dict[str, Any] = (
        httpx2.get(f"{server}/v1/research/{run_id}", headers=headers).raise_for_status().json()
    )
    return run


def assert_complete(page: Page, server: str, headers: dict[str, str] | None = None) -> None:
    """Check that the page shows the whole result, and every token once."""
    result = run_of(page, server, headers)["result"]
    paragraphs = page.locator("#answer > *").all_text_contents()
    assert "\n\n".join(paragraphs) == result["response"], "The page's answer is not the API's."
    assert page.locator("#sources li").count() == len(result["sources"]), (
        "Sources are missing or twice there."
    )
    assert page.locator("#steps li").count() == len(result["steps"]), "Steps are missing or twice there."


def history(page: Page) -> list[str]:
    return page.locator("#runs a span").all_text_contents()


def screenshot(page: Page, name: str) -> None:
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=FIGURES / f"04-{name}.png", animations="disabled")


# --- Ask and read the answer ---


def test_steps_sources_and_the_answer_arrive(visit: Visits, paced: Server) -> None:
    page = visit(paced)
    screenshot(page, "empty")
    page.evaluate(
        """() => {
            window.said = [];
            const state = document.querySelector("#state");
            const listen = new MutationObserver(() => window.said.push(state.textContent));
            listen.observe(state, { childList: true });
        }"""
    )
    ask(page)
    expect(page.locator("#steps li").first).to_contain_text("Searched for “graceful shutdown”")
    expect(page.locator("#sources li").first).to_contain_text("[1] ")
    expect(page.locator("#steps li").first).to_contain_text(re.compile(r"\d+ sources? found"))
    begun(page)
    expect(page.locator("#answer"), "A screen reader is not told to wait.").to_have_attribute(
        "aria-busy", "true"
    )
    expect(page.locator("#answer")).to_contain_text("which is asked to stop")
    assert run_of(page, paced)["state"] == "running", "The answer was shown only after its end."
    screenshot(page, "running")
    finished(page)
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    assert_complete(page, paced)
    said = page.evaluate("window.said")
    assert len(said) <= 12, f"A screen reader would read too much: {said}"
    assert all(phrase[-1] in "….?!" for phrase in said), f"Not whole phrases: {said}"
    assert run_of(page, paced)["background"], "The run would end with the page."


def test_a_citation_leads_to_its_source(visit: Visits, server: Server) -> None:
    page = visit(server)
    ask(page)
    finished(page)
    sources = run_of(page, server)["result"]["sources"]
    citation = page.locator("#answer .citation").first
    number = int(citation.inner_text().strip("[]"))
    address = page.url
    citation.click()
    entry = page.locator(f"#source-{number}")
    expect(entry, "The source is not marked.").to_be_focused()
    assert page.url == address, "A citation must not lead away from the run."
    link = entry.locator("a")
    # A page that only the agent's own search has is shown by the agent.
    opens = unquote(link.get_attribute("href") or "").removeprefix(f"{server}/source?url=")
    shown = {"title": link.inner_text(), "href": opens} | {
        name: link.get_attribute(name) for name in ("rel", "target")
    }
    source = {"title": sources[number - 1]["title"], "href": sources[number - 1]["url"]}
    expected = source | {"rel": "noopener noreferrer nofollow", "target": "_blank"}
    assert shown == expected, f"The link to source {number} is {shown}, not {expected}."


def test_a_run_is_cancelled(visit: Visits, paced: Server) -> None:
    page = visit(paced)
    ask(page)
    begun(page)
    page.click("#cancel")
    expect(page.locator("#state")).to_have_text("Cancelled.")
    expect(page.locator("#cancel")).to_be_hidden()
    assert run_of(page, paced)["state"] == "cancelled", "The page says so, but the run goes on."


def test_a_cancelled_question_is_asked_again(visit: Visits, paced: Server) -> None:
    page = visit(paced)
    ask(page)
    begun(page)
    expect(page.locator("#ask-again")).to_be_hidden()
    page.click("#cancel")
    expect(page.locator("#state")).to_have_text("Cancelled.")
    cancelled = page.url
    page.click("text=Ask again")
    page.wait_for_url(lambda url: url != cancelled)  # asking again starts a new run
    begun(page)
    expect(page.locator("#question")).to_have_text(QUESTION)
    expect(page.locator("#ask-again")).to_be_hidden()
    finished(page)


def test_an_example_asks(visit: Visits, server: Server) -> None:
    page = visit(server)
    page.click(f"#examples >> text={QUESTION}")
    finished(page)
    expect(page.locator("#question"), "An example only fills in the field.").to_have_text(QUESTION)


def test_a_source_opens(visit: Visits, server: Server) -> None:
    page = visit(server)
    ask(page)
    finished(page)
    with page.expect_popup() as opened:
        page.locator("#sources li a").first.click()
    text = opened.value.locator("body").inner_text()
    assert "graceful shutdown" in text.lower() and len(text) > 200, (
        f"A source leads to {opened.value.url}, where there is nothing to read."
    )


def test_an_answer_cut_at_its_length_limit_says_so(visit: Visits, start: StartServer) -> None:
    page = visit(start(MAX_TOKENS="30"))
    ask(page)
    expect(page.locator("#state")).to_contain_text("reached the limit of its length")


def test_the_answer_is_copied_with_its_sources(visit: Visits, server: Server) -> None:
    for script in ("", "delete Navigator.prototype.clipboard"):  # as without HTTPS
        page = visit(server, script, permissions=["clipboard-read", "clipboard-write"])
        ask(page)
        finished(page)
        page.click("#copy")
        expect(page.locator("#copied")).to_have_text("Copied")
        result = run_of(page, server)["result"]
        page.click("text=New question")
        page.locator("#query").press("Control+V")
        copied = page.input_value("#query")
        assert copied.startswith(result["response"]), "What is copied is not the answer's Markdown."
        listed = [f"{each['n']}. [{each['title']}]({each['url']})" for each in result["sources"]]
        assert copied.endswith("\n\n## Sources\n\n" + "\n".join(listed)), "What is copied lacks the sources."


# --- Resume ---


def test_a_reload_in_the_middle_goes_on(visit: Visits, paced: Server) -> None:
    page = visit(paced)
    ask(page)
    begun(page)
    page.reload()
    begun(page)
    assert run_of(page, paced)["state"] == "running", "The run was over before the reload."
    finished(page)
    assert_complete(page, paced)


def test_a_lost_connection_is_told_and_taken_up_again(
    visit: Visits, paced: Server, flaky_proxies: Callable[[str], FlakyProxy]
) -> None:
    proxy = flaky_proxies(paced)
    page = visit(proxy.url)
    visit.expected += ["net::ERR_"]
    asked_from: list[str] = []
    page.on("request", lambda request: asked_from.append(request.headers.get("last-event-id", "")))
    ask(page)
    begun(page)
    proxy.cut()
    expect(page.locator("#state")).to_have_text("Connection lost, trying again …")
    proxy.repair()
    begun(page)
    finished(page)
    assert_complete(page, paced)
    assert re.fullmatch(r"\d+-\d+", asked_from[-1]), "The page began again instead of resuming."


def test_a_connection_that_fell_silent_is_given_up(
    visit: Visits, paced: Server, flaky_proxies: Callable[[str], FlakyProxy]
) -> None:
    proxy = flaky_proxies(paced)
    page = visit(proxy.url)
    page.clock.install()
    ask(page)
    begun(page)
    proxy.fall_silent()
    page.clock.fast_forward(60_000)
    finished(page)
    assert_complete(page, paced)


def test_a_draining_server_is_retried(visit: Visits, server: Server) -> None:
    page = visit(server)
    visit.expected += ["503"]
    busy = {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Later.",
        "request_id": "1",
    }
    told = {"Content-Type": "application/problem+json", "Retry-After": "1"}
    page.route("**/events", lambda r: r.fulfill(status=503, headers=told, body=json.dumps(busy)), times=1)
    ask(page)
    expect(page.locator("#state")).to_have_text("Connection lost, trying again …")
    expect(page.locator("#problem")).to_be_hidden()
    finished(page)
    assert_complete(page, server)


def run_with_events(page: Page, *events: tuple[str, str, dict[str, Any]]) -> None:
    """Ask on the page, and answer with these events (id, type, data) and `done`."""
    told = [*events, ("9-1", "done", {"reason": "stop"})]
    body = "".join(f"id: {key}\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for key, kind, data in told)
    page.route("**/events", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    ask(page)
    finished(page)


def test_withdrawn_text_is_cleared(visit: Visits, server: Server) -> None:
    page = visit(server)
    run_with_events(
        page,
        ("0-1", "token", {"text": "Thinking aloud."}),
        ("0-2", "step", {"n": 1, "tool": "web_search", "input": {"query": "q"}, "outcome": "empty"}),
        ("0-3", "token", {"text": "Kept, "}),
        ("0-10", "token", {"text": "withdrawn"}),
        ("1-1", "reset", {"from_id": "0-3"}),
        ("1-2", "token", {"text": "and said anew."}),
    )
    expect(page.locator("#answer")).to_have_text("Kept, and said anew.")
    expect(page.locator("#steps li")).to_contain_text("Nothing found")


# --- Problems ---


def test_a_failed_run_is_explained_and_retried(visit: Visits, start: StartServer, offline_model: str) -> None:
    model = "offline?fault=500&every=9"
    for _ in range(8):  # the ninth call is the run's first
        question = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        httpx2.post(
            f"{offline_model}/v1/chat/completions", json=question, headers={"Authorization": "Bearer x"}
        )
    server = start(MODEL_NAME=model)
    page = visit(server)
    ask(page)
    expect(page.locator("#problem")).to_be_visible()
    problem = run_of(page, server)["problem"]
    for text in (problem["title"], problem["detail"], problem["request_id"]):
        expect(page.locator("#problem"), "The problem is not told.").to_contain_text(text)
    expect(page.locator("#state")).to_have_text("This run failed.")
    assert_accessible(page)
    failed = page.url
    page.click("text=Try again")
    finished(page)
    expect(page.locator("#problem")).to_be_hidden()
    assert page.url != failed, "Trying again must start a new run."
    assert_complete(page, server)


def test_a_question_that_did_not_arrive_is_sent_again_with_the_same_key(
    visit: Visits, server: Server, flaky_proxies: Callable[[str], FlakyProxy]
) -> None:
    proxy = flaky_proxies(server)
    page = visit(proxy.url)
    visit.expected += ["net::ERR_"]
    keys: list[str] = []
    page.on("request", lambda r: keys.append(r.headers["idempotency-key"]) if r.method == "POST" else None)
    proxy.cut()
    ask(page)
    expect(page.locator("#problem")).to_contain_text("The server cannot be reached")
    proxy.repair()
    page.click("text=Try again")
    finished(page)
    assert len(keys) == 2 and len(set(keys)) == 1, f"The same question needs the same key: {keys}"


def test_an_expired_run_is_explained_and_asked_again(visit: Visits, server: Server) -> None:
    entry = json.dumps([{"id": "gone", "query": QUESTION, "time": 0}])
    page = visit(f"{server}/#run=gone", f"localStorage['research-agent.runs'] ??= {json.dumps(entry)}")
    visit.expected += ["404"]
    expect(page.locator("#state")).to_contain_text("This run is gone")
    page.click("text=Try again")
    finished(page)


def test_a_key_is_asked_for_when_the_server_wants_one(visit: Visits, start: StartServer) -> None:
    server = start(API_KEYS="the-right-key")
    page = visit(server)
    visit.expected += ["401"]
    expect(page.locator("#key")).to_be_hidden()
    ask(page)
    expect(page.locator("#key"), "The field of the key is not ready to type.").to_be_focused()
    with page.expect_response(lambda reply: reply.status == 401):  # until then the field is hidden
        page.keyboard.type("a-wrong-key\n")
    expect(page.locator("#key")).to_have_value("")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type("the-right-key\n")
    finished(page)
    ended = run_of(page, server, {"X-API-Key": "the-right-key"})["state"]
    assert ended == "done", f"The page shows an answer, and the run is {ended!r}."
    page.reload()
    finished(page)
    stored = page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
    assert "the-right-key" not in stored, "The key must be forgotten with the tab."
    other = visit(page.url)
    expect(other.locator("#state")).to_have_text("This run cannot be shown.")
    other.locator("#key").press_sequentially("the-right-key\n")
    finished(other)
    assert_complete(other, server, {"X-API-Key": "the-right-key"})


# --- Untrusted text ---


@pytest.fixture
def hostile_search() -> Iterator[str]:
    """Return the URL of a search server (with SearXNG's API) whose results attack the page."""
    # The offline model removes HTML tags from its quotes, and then Markdown marks.
    told = f"A graceful shutdown is calm, and {XSS_ATTACK.replace('img', '**img**')} is in this sentence."
    results = [
        {"title": f"Shutdown {XSS_ATTACK}", "url": "https://one.example/", "content": told},
        {"title": f"More {XSS_ATTACK}", "url": "https://two.example/", "content": told},
    ]

    class Search(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.startswith("/search")
            body = json.dumps({"query": "", "results": results}).encode() if found else told.encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json" if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Search) as search:
        threading.Thread(target=search.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{search.server_port}"
        search.shutdown()


def test_html_of_questions_sources_and_answers_stays_text(
    visit: Visits, start: StartServer, hostile_search: str
) -> None:
    server = start(SEARCH_URL=hostile_search)
    page = visit(server)
    ask(page, f"What is a graceful shutdown? {XSS_ATTACK}")
    finished(page)
    result = run_of(page, server)["result"]
    assert XSS_ATTACK in result["response"], "The attack did not come as far as the answer."
    expect(page.locator("main img"), "HTML from outside has become part of the page.").to_have_count(0)
    for part in ("#question", "#answer", "#sources li >> nth=0", "#sources li >> nth=1"):
        lost = f"What looks like HTML was left out of {part.partition(' ')[0]}, and the reader never sees it."
        expect(page.locator(part), lost).to_contain_text("<img src=x onerror=")
    page.click("text=New question")
    assert history(page) == [f"What is a graceful shutdown? {XSS_ATTACK}"], (
        "The history shows another question."
    )
    expect(page.locator("main img"), "HTML from outside has become part of the page.").to_have_count(0)
    assert page.title() == "Research agent", "A script from outside was executed."


def test_only_http_urls_become_links(visit: Visits, server: Server) -> None:
    page = visit(server)
    source = {"title": "A trap", "url": "javascript:document.title='executed'", "snippet": "", "step": 1}
    run_with_events(
        page,
        ("0-1", "source", {"n": 1} | source),
        ("0-2", "token", {"text": f"[Click]({source['url']}) on [this](data:text/html,x)."}),
    )
    expect(page.locator("#sources li")).to_contain_text("A trap")
    expect(page.locator("#sources a, #answer a"), "A link that runs a script.").to_have_count(0)


# Markdown and the HTML it becomes; `a(URL)` stands for the start tag of a link.
MARKDOWN = {
    "plain": "<p>plain</p>",
    "a <b>&amp;</b>": "<p>a &lt;b&gt;&amp;amp;&lt;/b&gt;</p>",
    "# One\n## Two ##\ntext": "<h3>One</h3><h4>Two</h4><p>text</p>",
    "**b** *i* __b__ _i_": "<p><strong>b</strong> <em>i</em> <strong>b</strong> <em>i</em></p>",
    "***both*** `c<d`": "<p><strong><em>both</em></strong> <code>c&lt;d</code></p>",
    "2 * 3 * 4 snake_case_name 5*3*2": "<p>2 * 3 * 4 snake_case_name 5*3*2</p>",
    "- a\n- b\n  1. c\n- d": '<ul><li>a</li><li>b<ol start="1"><li>c</li></ol></li><li>d</li></ul>',
    "3. a\n4. b\n\nend": '<ol start="3"><li>a</li><li>b</li></ol><p>end</p>',
    "```py\n# *a*\n\n- b\n```\nend": '<pre tabindex="0"><code># *a*\n\n- b</code></pre><p>end</p>',
    "```\nstill open": '<pre tabindex="0"><code>still open</code></pre>',
    "> quoted\n> **words**": "<blockquote><p>quoted\n<strong>words</strong></p></blockquote>",
    "one\n\n---\n\ntwo": "<p>one</p><hr><p>two</p>",
    "[b](javascript:alert(1)) [c](data:text/html,x)": "<p>[b](javascript:alert(1)) [c](data:text/html,x)</p>",
    "[a](https://x.example/y_(z))": "<p>a(https://x.example/y_(z))a</a></p>",
    "see https://x.example/a_b.": "<p>see a(https://x.example/a_b)https://x.example/a_b</a>.</p>",
    "![pixel](https://x.example/p.gif)": "<p>!a(https://x.example/p.gif)pixel</a></p>",
    "so [1][2], `[1]` \\[1]": "<p>so (1)(2), <code>[1]</code> [1]</p>",
    "``a ` b`` `c": "<p><code>a ` b</code> `c</p>",
    "**a *b* c** **d": "<p><strong>a <em>b</em> c</strong> **d</p>",
    "_a *b_ c*": "<p>_a <em>b_ c</em></p>",
    "**a* b": "<p>*<em>a</em> b</p>",
}
SLOW_MARKDOWN = [  # these are slow in parsers that search the same text again and again
    *["> " * 5000 + "x", "- " * 5000 + "x", "*_`[(" * 2000, "**" * 5000, "\n" * 5000],
    *["a ".join("`" * n for n in range(1, 161)), "`a " * 10_000, "``a `" * 5_000, "`" * 20_000 + "a"],
    *["**a " * 8_000, "__a " * 8_000, "_a " * 8_000, "*a " * 8_000, "_a **b " * 4_000, "*a_ _b* " * 4_000],
    *["[a](" * 8_000, "[" * 20_000, '[a](b "' * 4_000, "[a](b(" * 5_000, "http://" * 5_000, "\\`" * 8_000],
    *[
        "- a\n" * 5_000,
        "> a\n" * 5_000,
        "```\n" + "``\n" * 5_000,
        " - - -" * 4_000 + "x",
        "# " + " #" * 8_000 + "x",
    ],
]
LINK = r'<a href="([^"]*)" target="_blank" rel="noopener noreferrer nofollow">'


def test_markdown_becomes_elements_and_nothing_else(visit: Visits, server: Server) -> None:
    page = visit(server)
    render = """async (texts) => {
        const { renderBlock, splitBlocks } = await import("/static/app.js");
        const draw = (block) => renderBlock(block, (n) => `(${n})`).outerHTML;
        return texts.map((text) => splitBlocks(text.split("\\n")).map(draw).join(""));
    }"""
    for text, html in zip(MARKDOWN, page.evaluate(render, list(MARKDOWN)), strict=True):
        became = re.sub(LINK, r"a(\1)", html)
        assert became == MARKDOWN[text], f"The text {text!r} became {became}, and not {MARKDOWN[text]}."
    # Deep or long Markdown must neither freeze the page nor overflow its stack.
    for text in SLOW_MARKDOWN:
        seconds = page.evaluate(
            f"async (text) => {{ const t = performance.now(); await ({render})([text]); "
            f"return (performance.now() - t) / 1000 }}",
            text,
        )
        assert seconds < 5, (
            f"An answer of {len(text):,} characters, {text[:20]!r}, froze the page for {seconds:.0f} s."
        )


STREAM = (
    "\ufeff: ping\r\nretry: 1234\r\n\r\n"
    "id: 0-1\r\nevent: token\r\ndata: {\r\ndata:  \"ä€🎈\"\r\n\r\n"
    "id: 0-2\revent: x\rdata\r\r"
    ":comment\n\nid: 0-3\n\nunknown: y\ndata:last\n\n"
    "data: cut off\n"
)  # fmt: skip


def test_a_stream_is_read_the_same_however_it_is_cut_into_pieces(visit: Visits, server: Server) -> None:
    page = visit(server)
    read = """async (stream) => {
        const { readEvents } = await import("/static/app.js");
        const bytes = new TextEncoder().encode(stream);
        const cuts = [[bytes.length], [...bytes.keys()], ...Array.from(bytes.keys(), (at) => [at])];
        const seen = new Set();
        for (const ends of cuts) {
            const state = { lastId: "", retry: 0 };
            const body = new ReadableStream({ start(controller) {
                let from = 0;
                for (const end of [...ends, bytes.length]) {
                    if (end > from) controller.enqueue(bytes.slice(from, end));
                    from = end;
                }
                controller.close();
            } });
            const events = [];
            for await (const event of readEvents(body, state)) events.push(event);
            seen.add(JSON.stringify([events, state]));
        }
        return [...seen];
    }"""
    ways = page.evaluate(read, STREAM)
    assert len(ways) == 1, f"The same stream, cut into other pieces, was read in {len(ways)} different ways."
    (seen,) = ways
    events = json.loads(seen)
    assert events == [
        [
            {"id": "0-1", "type": "token", "data": '{\n "ä€🎈"'},
            {"id": "0-2", "type": "x", "data": ""},
            {"id": "0-3", "type": "message", "data": "last"},
        ],
        {"lastId": "0-3", "retry": 1234},
    ], f"The events of the stream were read as {events}."


# --- History ---


def test_the_history_opens_and_deletes_runs(visit: Visits, server: Server) -> None:
    page = visit(server)
    expect(page.locator("#history")).to_be_hidden()
    other = "How do liveness and readiness differ?"
    for question in (QUESTION, other):
        ask(page, question)
        finished(page)
        page.click("text=New question")
    page.reload()
    assert history(page) == [other, QUESTION], "The newest question comes first, and all outlive a reload."
    page.click(f"#runs >> text={QUESTION}")
    finished(page)
    expect(page.locator("#question")).to_have_text(QUESTION)
    assert_complete(page, server)
    page.go_back()
    page.get_by_label(f"Delete “{QUESTION}”").click()
    assert history(page) == [other], "A run was deleted from the history, and the other should be left."
    page.click("text=Clear all")
    expect(page.locator("#history")).to_be_hidden()
    assert visit(server).locator("#runs li").count() == 0, "The history is this browser's own."


def test_the_history_keeps_fifty_runs(visit: Visits, server: Server) -> None:
    runs = [{"id": str(n), "query": f"Question {n}", "time": 0} for n in range(50)]
    page = visit(server, f"localStorage['research-agent.runs'] ??= {json.dumps(json.dumps(runs))}")
    ask(page)
    finished(page)
    page.click("text=New question")
    assert history(page) == [QUESTION, *(run["query"] for run in runs[:49])], (
        "The history is not the newest fifty runs."
    )


# --- Accessibility ---


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_accessibility_violation(visit: Visits, paced: Server, scheme: str) -> None:
    page = visit(paced, color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = max(map(int, re.findall(r"\d+", ground)[:3])) < 60
    assert dark is (scheme == "dark"), f"The page does not follow the system's {scheme} mode: {ground}"
    assert_accessible(page)
    ask(page)
    begun(page)
    assert_accessible(page)
    finished(page)
    assert_accessible(page)
    screenshot(page, f"answer-{scheme}")
    page.locator(".citation").first.click()
    assert_accessible(page)
    page.click("text=New question")
    assert_accessible(page)


def test_everything_can_be_done_from_the_keyboard(visit: Visits, server: Server) -> None:
    page = visit(server)
    press, focused = page.keyboard.press, page.locator("*:focus")
    expect(page.locator("#query")).to_be_focused()
    press("Shift+Tab")
    press("Shift+Tab")
    expect(page.locator("#skip"), "The skip link must show itself.").to_be_in_viewport()
    press("Enter")
    press("Tab")
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.type(QUESTION)
    press("Escape")
    expect(page.locator("#query"), "Escape takes away what was typed.").to_have_value(QUESTION)
    press("Control+Enter")
    expect(page.locator("#question"), "The reader is not led to the run.").to_be_focused()
    finished(page)
    for wanted in ("#copy", "#answer .citation >> nth=0"):
        press("Tab")
        expect(page.locator(wanted)).to_be_focused()
        outline = focused.evaluate("node => getComputedStyle(node).outlineStyle")
        assert outline != "none", f"Nobody sees that {wanted} has the focus."
    press("Enter")
    press("Tab")
    expect(page.locator("#sources li a").first).to_be_focused()
    page.go_back()
    expect(page.locator("#query")).to_be_focused()
    press("Tab")
    expect(page.locator("#send")).to_be_focused()


@pytest.mark.parametrize("width", [320, 360, 640])
def test_nothing_is_wider_than_the_screen(visit: Visits, server: Server, width: int) -> None:
    """A screen of 1280 pixels has 320 CSS pixels at a zoom of 400 %, and 640 at 200 %."""
    page = visit(server, viewport={"width": width, "height": 740})
    long = f"{QUESTION} {'https://x.example/' + 'long' * 100}"
    wider = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(wider) <= 0, "The empty page scrolls sideways."
    ask(page, long)
    finished(page)
    assert page.evaluate(wider) <= 0, "The answer's page scrolls sideways."
    page.click("text=New question")
    assert page.evaluate(wider) <= 0, "The history scrolls sideways."
    run_with_events(
        page, ("0-1", "token", {"text": f"```\n{'code ' * 100}\n```\n1. {'list' * 100}\n\n# {'head' * 100}"})
    )
    assert page.evaluate(wider) <= 0, "A long line of code makes the whole page scroll sideways."


def test_reduced_motion_stops_animations(visit: Visits, paced: Server) -> None:
    page = visit(paced, reduced_motion="reduce")
    ask(page)
    expect(page.locator("#state")).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0, "Something moves all the same."


if os.environ.get("SCREENSHOTS"):  # only takes a screenshot, so it is not collected otherwise

    def test_screenshot_on_a_phone(visit: Visits, server: Server) -> None:
        page = visit(server, viewport={"width": 360, "height": 740}, device_scale_factor=1.5)
        ask(page)
        finished(page)
        screenshot(page, "phone")


def test_the_page_loads_nothing_from_other_hosts(visit: Visits, server: Server, lesson_root: Path) -> None:
    page = visit(server)
    with page.expect_request("**/*"):
        page.reload()
    loaded = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(address.startswith(server) for address in loaded), f"Something comes from elsewhere: {loaded}"
    files = sorted(path.name for path in (lesson_root / "research-agent/app/static").iterdir())
    assert files == ["app.js", "index.html", "style.css"], f"The page is made of other files: {files}."
