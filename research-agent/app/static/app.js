/**
 * The research agent's page: start a run, read its server-sent events, and render them.
 * Text of the model and its sources becomes text nodes, never HTML.
 *
 * @typedef {{status: number, title: string, detail: string, request_id?: string}} Problem
 * @typedef {{n: number, tool: string, input: Record<string, string>, outcome: string}} Step
 * @typedef {{n: number, title: string, url: string, snippet: string, step: number}} Source
 * @typedef {ReturnType<typeof newRun>} Run
 */

// Keys in the browser's storage. Prefixed, because other programs on this host and port share it.
const [HISTORY_STORAGE, API_KEY_STORAGE] = ["research-agent.runs", "research-agent.key"];
const HISTORY_LENGTH = 50;
const MAX_BACKOFF_MS = 10_000;
const IDLE_TIMEOUT_MS = 45_000; // the server pings every 15 s, so a connection that is silent for longer is dead
const TRANSIENT_STATUSES = [0, 429, 502, 503, 504]; // worth a retry; 0: no connection

const $ = (id) => document.getElementById(id);
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const isWebUrl = (url) => URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);

/** Create an element with attributes and children; strings become text nodes. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Create a link to a web page; plain text if the URL is not http or https. */
function link(url, text) {
  if (!isWebUrl(url)) return element("span", {}, text);
  return element("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, text);
}

// ---- The API

class ApiError extends Error {
  /** @param {Problem} problem  @param {number} retryAfter  seconds */
  constructor(problem, retryAfter = 0) {
    super(problem.title);
    Object.assign(this, { problem, retryAfter });
  }
}

function throwUnreachable() {
  const detail = "Is it running, and are you online?";
  throw new ApiError({ status: 0, title: "The server cannot be reached", detail });
}

/** Call the API: return a stream's body, or else the parsed JSON. Throws ApiError. */
async function callApi(path, options = {}) {
  const headers = new Headers(options.headers);
  if (sessionStorage.getItem(API_KEY_STORAGE)) headers.set("X-API-Key", sessionStorage.getItem(API_KEY_STORAGE));
  const response = await fetch(`v1/research${path}`, { ...options, headers }).catch(throwUnreachable);
  const type = response.headers.get("Content-Type") ?? "";
  if (response.ok && type.startsWith("text/event-stream")) return response.body;
  const text = await response.text().catch(throwUnreachable);
  if (response.ok) return JSON.parse(text);
  const unknown = { title: `HTTP ${response.status}`, detail: "A proxy answered in place of the API." };
  const problem = type.startsWith("application/problem+json") ? JSON.parse(text) : unknown;
  throw new ApiError({ ...problem, status: response.status }, Number(response.headers.get("Retry-After")) || 0);
}

/**
 * Parse a stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) until it
 * ends, breaks, or is silent for too long. Updates `state.lastId` and `state.retry`.
 */
async function* readEvents(body, state) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, afterCR, id, type, data] = ["", false, state.lastId, "", []];
  while (true) {
    const idleTimer = setTimeout(() => reader.cancel(), IDLE_TIMEOUT_MS);
    const { done, value } = await reader.read().catch(() => ({ done: true })); // a broken stream has ended
    clearTimeout(idleTimer);
    if (done) return; // an event without its final blank line is discarded
    const lines = (rest + (afterCR ? value.replace(/^\n/, "") : value)).split(/\r\n|\r|\n/);
    afterCR = value.endsWith("\r"); // the next chunk may begin with its \n
    rest = lines.pop();
    for (const line of lines) {
      const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "event") type = content;
      else if (field === "data") data.push(content);
      else if (field === "id" && !content.includes("\0")) id = content;
      else if (field === "retry" && /^\d+$/.test(content)) state.retry = Number(content);
      if (line) continue;
      state.lastId = id;
      if (data.length) yield { id, type: type || "message", data: data.join("\n") };
      [type, data] = ["", []];
    }
  }
}

/** Show a run's events until the last one; reconnect when the connection is lost. @param {Run} run */
async function followRun(run) {
  const signal = run.abort.signal;
  for (let attempts = 0; !signal.aborted; attempts++) {
    let retryAfter = 0;
    try {
      showQuestion(run, run.query ?? (await callApi(run.path, { signal })).query);
      const headers = run.lastId ? { "Last-Event-ID": run.lastId } : {};
      const body = await callApi(`${run.path}/events`, { headers, signal });
      if (attempts) setStatus("working", "Connected again …");
      for await (const { id, type, data } of readEvents(body, run)) {
        if (signal.aborted) return;
        attempts = 0;
        handleEvent(run, id, type, JSON.parse(data));
        if (type === "done" || type === "error") return;
      }
    } catch (error) {
      if (!signal.aborted && !TRANSIENT_STATUSES.includes(error.problem?.status)) throw error;
      retryAfter = error.retryAfter * 1000;
    }
    if (signal.aborted) return;
    setStatus("lost", "Connection lost, trying again …");
    const backoff = Math.min(MAX_BACKOFF_MS, run.retry * 2 ** attempts) * (0.5 + Math.random() / 2);
    await new Promise((resolve) => setTimeout(resolve, Math.max(retryAfter, backoff)));
  }
}

/** A number that orders events by their ids, EPOCH-SEQ. */
function order(id) {
  const [epoch, seq] = id.split("-").map(Number);
  return epoch * 1e9 + seq;
}

// ---- Rendering a run

/**
 * Update the page for one event. (With an `EventSource`, the run's `error` events and connection errors would reach
 * the same handler; only the run's have data.) @param {Run} run
 */
function handleEvent(run, id, type, data) {
  if (type === "token") run.pieces.push({ id, text: data.text });
  if (type === "step") run.pieces = []; // text before a step is not part of the answer
  if (type === "reset") run.pieces = run.pieces.filter((piece) => order(piece.id) <= order(data.from_id));
  if (["token", "step", "reset"].includes(type)) run.frame ??= requestAnimationFrame(() => renderAnswer(run));
  if (type === "token") setStatus("working", "Writing the answer …");
  if (type === "reset") setStatus("working", "Another server continues this run …");
  if (type === "state" && data.name === "queued") setStatus("working", "The server is busy: your run is queued …");
  if (type === "step") showStep(run, data);
  if (type === "source") showSource(run, data);
  if (type === "usage") run.tokens = data.prompt_tokens + data.completion_tokens;
  if (type === "done") {
    finish(run, data.reason, endMessage(run, data.reason));
    $("ask-again").hidden = data.reason !== "cancelled";
  }
  if (type === "error") {
    finish(run, "failed", "This run failed.");
    showProblem(data.problem, () => ask(run.query));
  }
}

function endMessage(run, reason) {
  if (reason === "cancelled") return "Cancelled.";
  if (reason === "length") return "The answer is cut off: it reached the limit of its length.";
  if (reason !== "stop") return `The answer is cut off (${reason}).`;
  const counts = [plural(run.steps.size, "step"), plural(run.sources.size, "source")];
  return `Finished: ${[...counts, ...(run.tokens ? [plural(run.tokens, "token")] : [])].join(", ")}.`;
}

/** Show the run's status. Screen readers announce each change, so it is a whole phrase. */
function setStatus(state, phrase) {
  $("state").dataset.state = state;
  if ($("state").textContent !== phrase) $("state").textContent = phrase;
}

function showQuestion(run, query) {
  run.query = query;
  $("question").textContent = query;
  document.title = `${query.slice(0, 80)} · Research agent`;
}

/** Append an item to a list, in place of an older one with the same id. */
function appendItem(list, item) {
  $(item.id)?.remove();
  $(list).append(item);
}

/** @param {Run} run  @param {Step} step */
function showStep(run, { n, tool, input, outcome }) {
  const page = [...run.sources.values()].find((source) => source.url === input.url)?.title ?? input.url;
  const phrases = { web_search: `Searched for “${input.query}”`, fetch_page: `Read “${page}”` };
  const outcomes = { ok: "Done.", empty: "Nothing found.", failed: "This failed.", refused: "Refused." };
  const phrase = phrases[tool] ?? `Used ${tool} with ${JSON.stringify(input)}`;
  const label = element("span", { class: "outcome" }, outcomes[outcome] ?? outcome);
  run.steps.set(n, outcome);
  appendItem("steps", element("li", { id: `step-${n}`, class: outcome }, `${phrase} `, label));
  setStatus("working", `${phrase}: ${label.textContent} Thinking …`);
}

/** @param {Run} run  @param {Source} source */
function showSource(run, source) {
  const { n, title, url, snippet, step } = source;
  const host = element("span", { class: "host" }, isWebUrl(url) ? new URL(url).host : url);
  const number = element("span", { class: "number" }, `[${n}]`);
  // Hosts under .example are not on the web (RFC 2606): the offline search makes such pages, and the agent shows them.
  const offline = isWebUrl(url) && new URL(url).host.endsWith(".example");
  const target = offline ? new URL(`source?url=${encodeURIComponent(url)}`, document.baseURI).href : url;
  const parts = [number, " ", link(target, title || url), host, element("p", {}, snippet)];
  run.sources.set(n, source);
  appendItem("sources", element("li", { id: `source-${n}`, tabindex: -1 }, ...parts));
  const found = [...run.sources.values()].filter((other) => other.step === step).length;
  $(`step-${step}`)?.querySelector(".outcome").replaceChildren(`${plural(found, "source")} found.`);
}

/** Create a citation: a link that moves the focus to its source, which highlights it. */
function citationLink(run, n) {
  if (!run.sources.has(n)) return `[${n}]`;
  const name = `[${n}] ${run.sources.get(n).title}`;
  const anchor = element("a", { class: "citation", href: location.hash, "aria-label": name }, `[${n}]`);
  anchor.addEventListener("click", (event) => {
    event.preventDefault();
    $(`source-${n}`).focus();
  });
  return anchor;
}

const answerText = (run) => run.pieces.map((piece) => piece.text).join("");

/** Render the answer from its first changed block on, so that focus and selection before it stay. */
function renderAnswer(run) {
  run.frame = undefined;
  if (run.abort.signal.aborted) return;
  const blocks = splitBlocks(answerText(run).split("\n"));
  const texts = blocks.map((block) => block.lines.join("\n"));
  const changed = [...texts, null].findIndex((text, at) => text !== run.rendered[at]);
  for (const node of [...$("answer").children].slice(changed)) node.remove();
  $("answer").append(...blocks.slice(changed).map((block) => renderBlock(block, (n) => citationLink(run, n))));
  run.rendered = texts;
}

function finish(run, state, phrase) {
  renderAnswer(run);
  setStatus(state, phrase);
  $("answer").ariaBusy = "false";
  $("cancel").hidden = true;
  $("copy").hidden = run.pieces.length === 0;
}

let retryAction = () => {}; // of the button "Try again"

/** Show a problem, and a button to try again. @param {Problem} problem */
function showProblem(problem, retry) {
  retryAction = retry;
  $("problem-title").textContent = problem.title;
  $("problem-detail").textContent = problem.detail;
  $("problem-request").textContent = problem.request_id ? `Request id: ${problem.request_id}` : "";
  $("problem").hidden = false;
  $("again").hidden = problem.status === 401;
  $("key-form").hidden = problem.status !== 401;
  if (problem.status === 401) $("key").focus();
}

/** Run a function; show its ApiError, and run it again when the reader asks for it. */
async function withRetry(work) {
  $("problem").hidden = true;
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const wait = error.retryAfter ? ` The server asks you to wait ${plural(error.retryAfter, "second")}.` : "";
    showProblem({ ...error.problem, detail: error.problem.detail + wait }, () => withRetry(work));
  }
}

// ---- Markdown

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6}) +(.*)/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^ *([-*+]|\d{1,9}[.)])( +|$)/;
const BLOCKS = { code: FENCE, heading: HEADING, rule: RULE, quote: QUOTE, list: ITEM, text: /\S/, blank: /^/ };

const kindOf = (line) => Object.keys(BLOCKS).find((kind) => BLOCKS[kind].test(line));
const indent = (line) => line.search(/\S|$/);
const isOrdered = (item) => /^ *\d/.test(item);
const closesFence = (line, fence) => line.trim().startsWith(FENCE.exec(fence)[1]) && /^[`~ ]+$/.test(line);

/** Whether the line at `at` belongs to the block of this kind that begins at `start`. */
function continuesBlock(kind, lines, start, at) {
  const next = kindOf(lines[at]);
  if (kind === "code") return at === start + 1 || !closesFence(lines[at - 1], lines[start]);
  if (kind !== "list") return next === kind && kind !== "heading" && kind !== "rule";
  if (next === "blank" || indent(lines[at]) > 1) return true;
  if (next === "text") return lines[at - 1].trim() !== "";
  return next === "list" && isOrdered(lines[at]) === isOrdered(lines[start]);
}

/** Split lines of Markdown into blocks. */
function splitBlocks(lines) {
  const blocks = [];
  for (let start = 0, end; start < lines.length; start = end) {
    const kind = kindOf(lines[start]);
    for (end = start + 1; end < lines.length && continuesBlock(kind, lines, start, end); ) end++;
    if (kind !== "blank") blocks.push({ kind, lines: lines.slice(start, end) });
  }
  return blocks;
}

/** Render a block as an element; `cite(n)` returns the node for a citation of source n. */
function renderBlock({ kind, lines }, cite, depth = 0) {
  const inner = (text) => splitBlocks(text).map((block) => renderBlock(block, cite, depth + 1));
  if (kind === "rule") return element("hr");
  if (kind === "code") {
    const end = lines.length > 1 && closesFence(lines.at(-1), lines[0]) ? -1 : undefined;
    return element("pre", { tabindex: 0 }, element("code", {}, lines.slice(1, end).join("\n")));
  }
  if (kind === "heading") {
    const [, marks, title] = HEADING.exec(lines[0]);
    return element(`h${Math.min(6, marks.length + 2)}`, {}, ...renderInline(title.replace(/ #+ *$/, ""), cite));
  }
  if (kind === "text" || depth > 5) return element("p", {}, ...renderInline(lines.join("\n"), cite));
  if (kind === "quote") {
    return element("blockquote", {}, ...inner(lines.map((line) => line.replace(QUOTE, ""))));
  }
  const list = isOrdered(lines[0]) ? element("ol", { start: parseInt(lines[0]) }) : element("ul");
  for (const [first, ...others] of listItems(lines).map(inner)) {
    const parts = first?.tagName === "P" ? first.childNodes : [first ?? ""];
    list.append(element("li", {}, ...parts, ...others));
  }
  return list;
}

/** Split a list into its items: each is its lines without marker and indentation. */
function listItems(lines) {
  const items = [];
  let width = 0; // of the item's marker, in characters
  for (const line of lines) {
    const marker = indent(line) < indent(lines[0]) + 2 && ITEM.exec(line)?.[0];
    if (marker) items.push([line.slice((width = marker.length))]);
    else items.at(-1).push(line.slice(Math.min(indent(line), width)));
  }
  return items;
}

const MARKS = [
  /\\(?<escaped>[!-/:-@[-`{-~])/,
  /(?<ticks>`+)/,
  /(?<strong>\*\*|(?<!\w)__)(?=\S)/,
  /(?<!\w)(?<em>[*_])(?=[^\s*_])/,
  /\[(?<label>[^\][]*)\]\((?<url>[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?: +"[^"]*")?\)/,
  /\[(?<cited>\d{1,3})\]/,
  /(?<bare>https?:\/\/[^\s<>()[\]"'`*]*[^\s<>()[\]"'`*.,;:!?_])/,
];
const INLINE = new RegExp(MARKS.map((mark) => mark.source).join("|"), "g");
// The end of each mark. Text between two `*` or two `_` may not contain a `*`, so the search for their end stops there.
const ENDS = {
  "**": /(?<end>(?<=\S)\*\*(?!\*))/g,
  __: /(?<end>(?<=\S)__(?!\*))/g,
  "*": /(?<end>(?<=[^\s*_])\*(?!\w))|\*/g,
  _: /(?<end>(?<=[^\s*_])_(?!\w))|\*/g,
};

/**
 * Return a function that finds the end of a mark whose content begins at `from`, or -1; `from` must not decrease.
 * It searches each part of the text once for each kind of mark, so rendering takes linear time even if no mark has
 * an end.
 */
function endFinder(text) {
  const runs = {}; // where each sequence of backticks begins, by its length, the last one first
  for (const { 0: run, index } of text.matchAll(/`+/g)) (runs[run] ??= []).push(index);
  for (const each of Object.values(runs)) each.reverse();
  const noEndBefore = {}; // by mark: there is no end before this position
  return (mark, from) => {
    if (mark[0] === "`") {
      while (runs[mark]?.at(-1) < from) runs[mark].pop();
      return runs[mark]?.at(-1) ?? -1;
    }
    if (from < noEndBefore[mark]) return -1;
    ENDS[mark].lastIndex = from + 1;
    const found = ENDS[mark].exec(text);
    if (found?.groups.end) return found.index;
    noEndBefore[mark] = found?.index ?? Infinity;
    return -1;
  };
}

/** Render text with inline Markdown as nodes and strings. */
function renderInline(text, cite) {
  const nodes = [];
  const findEnd = endFinder(text);
  let [end, found] = [0]; // the end of the text that `nodes` covers, and the next mark
  for (let at = 0; (INLINE.lastIndex = at), (found = INLINE.exec(text)); ) {
    const { escaped, ticks, strong, em, label, url, cited, bare } = found.groups;
    const mark = ticks ?? strong ?? em;
    at = found.index + found[0].length;
    const close = mark ? findEnd(mark, at) : at;
    if (close < 0) {
      if (!ticks) at = found.index + 1; // a `**` without an end may be a `*` with one
      continue;
    }
    const content = text.slice(at, close);
    nodes.push(text.slice(end, found.index));
    end = at = close + (mark ?? "").length;
    if (escaped) nodes.push(escaped);
    else if (ticks) nodes.push(element("code", {}, content.trim()));
    else if (mark) nodes.push(element(strong ? "strong" : "em", {}, ...renderInline(content, cite)));
    else if (cited) nodes.push(cite(Number(cited)));
    else if (bare) nodes.push(link(bare, bare));
    else nodes.push(isWebUrl(url) ? link(url, label || url) : found[0]);
  }
  return [...nodes, text.slice(end)];
}

// ---- History, in this browser's storage

/** @returns {{id: string, query: string, time: number}[]}  newest first */
const loadHistory = () => JSON.parse(localStorage.getItem(HISTORY_STORAGE) ?? "[]");

function saveHistory(runs) {
  localStorage.setItem(HISTORY_STORAGE, JSON.stringify(runs.slice(0, HISTORY_LENGTH)));
  showHistory();
}

function showHistory() {
  $("runs").replaceChildren(...loadHistory().map(historyEntry));
}

function historyEntry({ id, query, time }) {
  const when = new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const stamp = element("time", { datetime: new Date(time).toISOString() }, when);
  const remove = element("button", { type: "button", "aria-label": `Delete “${query}”` }, "×");
  remove.addEventListener("click", () => {
    saveHistory(loadHistory().filter((run) => run.id !== id));
    ($("runs").querySelector("a") ?? $("query")).focus();
  });
  const entry = element("a", { href: `#run=${encodeURIComponent(id)}` }, element("span", {}, query), stamp);
  return element("li", {}, entry, remove);
}

// ---- Actions

let currentRun; // the run on the page

/** Start a run. All attempts send one Idempotency-Key, so that a retry does not start a second run. */
function ask(query) {
  // not crypto.randomUUID(), which browsers offer on HTTPS pages only
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  const body = JSON.stringify({ query, background: true });
  return withRetry(async () => {
    $("send").disabled = true; // so that a second click does not start a second run
    const request = callApi("", { method: "POST", headers, body });
    const { id } = await request.finally(() => ($("send").disabled = false));
    saveHistory([{ id, query, time: Date.now() }, ...loadHistory()]);
    $("query").value = "";
    location.hash = `run=${encodeURIComponent(id)}`;
  });
}

/** Cancel the run; its last event says when it has stopped. */
function cancel() {
  setStatus("working", "Cancelling …");
  return withRetry(() => callApi(currentRun.path, { method: "DELETE" }));
}

/** Copy the answer's Markdown and the list of its sources to the clipboard. */
async function copy() {
  const sources = [...currentRun.sources.values()].map(({ n, title, url }) => `${n}. [${title}](${url})`);
  const parts = [answerText(currentRun).trim(), ...(sources.length ? ["## Sources", sources.join("\n")] : [])];
  const text = parts.join("\n\n");
  const allowed = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  $("copied").textContent = allowed || copySelected(text) ? "Copied" : "The browser forbids copying";
  setTimeout(() => ($("copied").textContent = ""), 3000);
}

/** Copy with the deprecated execCommand, which needs neither permission nor HTTPS. */
function copySelected(text) {
  const area = element("textarea", { class: "off-screen", "aria-hidden": "true" }, text);
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  $("copy").focus();
  return copied;
}

/** The state of a run before its first event. */
function newRun(id, query) {
  return {
    path: `/${encodeURIComponent(id)}`,
    query,
    abort: new AbortController(), // aborted when another view opens
    lastId: "", // of the last event
    retry: 500, // milliseconds before the first reconnection
    pieces: [], // of the answer: {id of the event, text}
    rendered: [], // the Markdown of the answer's blocks on the page
    steps: new Map(),
    sources: new Map(),
  };
}

async function openRun(id) {
  const run = newRun(id, loadHistory().find((each) => each.id === id)?.query);
  currentRun = run;
  for (const list of ["steps", "answer", "sources"]) $(list).replaceChildren();
  $("question").textContent = run.query ?? "Research run";
  $("answer").ariaBusy = "true";
  $("body").hidden = $("cancel").hidden = false;
  $("copy").hidden = $("ask-again").hidden = true;
  setStatus("working", "Thinking …");
  $("question").focus();
  try {
    await followRun(run);
  } catch (error) {
    const gone = error.problem?.status === 404;
    const reason = gone ? "is gone: the server keeps runs for a limited time" : "cannot be shown";
    finish(run, "failed", `This run ${reason}.`);
    $("body").hidden = run.lastId === "";
    if (!gone || !run.query) throw error;
    showProblem(error.problem, () => ask(run.query));
  }
}

/** Open the view that the URL's fragment names. */
function route() {
  currentRun?.abort.abort();
  const id = new URLSearchParams(location.hash.slice(1)).get("run");
  const view = id ? "run" : "home";
  for (const part of document.querySelectorAll("[data-view]")) part.hidden = part.dataset.view !== view;
  if (id) return withRetry(() => openRun(id));
  document.title = "Research agent";
  $("problem").hidden = true;
  $("query").focus();
}

function on(id, type, handle) {
  $(id).addEventListener(type, (event) => {
    if (type === "submit") event.preventDefault();
    handle(event);
  });
}

on("ask", "submit", () => ask($("query").value));
on("query", "keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
on("examples", "click", (event) => {
  if (event.target.matches("button")) ask(event.target.textContent);
});
on("key-form", "submit", () => {
  sessionStorage.setItem(API_KEY_STORAGE, $("key").value);
  $("key").value = "";
  retryAction();
});
on("again", "click", () => retryAction());
on("cancel", "click", cancel);
on("ask-again", "click", () => ask(currentRun.query));
on("copy", "click", copy);
on("clear", "click", () => {
  saveHistory([]);
  $("query").focus();
});
on("skip", "click", (event) => {
  event.preventDefault(); // the URL's fragment names the run
  $("main").focus();
});
window.addEventListener("hashchange", route);
window.addEventListener("storage", showHistory); // another tab has changed it
showHistory();
route();

export { renderBlock, readEvents, splitBlocks };
