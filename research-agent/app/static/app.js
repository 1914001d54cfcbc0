/**
 * The research agent's page: asks, follows the run's events, and shows what they tell.
 * What the model and its sources say becomes text nodes, never HTML.
 *
 * @typedef {{status: number, title: string, detail: string, request_id?: string}} Problem
 * @typedef {{n: number, tool: string, input: Record<string, string>, outcome: string}} Step
 * @typedef {{n: number, title: string, url: string, snippet: string, step: number}} Source
 * @typedef {ReturnType<typeof newRun>} Run
 */

// Other programs of this host and port share the browser's storage: these names are ours alone.
const [RUNS, KEY] = ["research-agent.runs", "research-agent.key"];
const HISTORY_LENGTH = 50;
const LONGEST_PAUSE_MS = 10_000;
const SILENCE_MS = 45_000; // the server pings every 15 s: a connection as silent as this is dead
const PASSING = [0, 429, 502, 503, 504]; // statuses that may be others at the next try

const $ = (id) => document.getElementById(id);
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const isWeb = (url) => URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);

/** An element with attributes and children; strings become text nodes. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A link to the web; plain text where the address is not http or https. */
function link(url, text) {
  if (!isWeb(url)) return element("span", {}, text);
  return element("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, text);
}

// ---- The API

class Trouble extends Error {
  /** @param {Problem} problem  @param {number} wait  seconds of Retry-After */
  constructor(problem, wait = 0) {
    super(problem.title);
    Object.assign(this, { problem, wait });
  }
}

function lost() {
  const detail = "Does it run, and are you online?";
  throw new Trouble({ status: 0, title: "The server cannot be reached", detail });
}

/** What the API replies: a stream's body, or else JSON; Trouble when it refuses or is not there. */
async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (sessionStorage.getItem(KEY)) headers.set("X-API-Key", sessionStorage.getItem(KEY));
  const reply = await fetch(`v1/research${path}`, { ...options, headers }).catch(lost);
  const type = reply.headers.get("Content-Type") ?? "";
  if (reply.ok && type.startsWith("text/event-stream")) return reply.body;
  const told = await reply.text().catch(lost);
  if (reply.ok) return JSON.parse(told);
  const unknown = { title: `HTTP ${reply.status}`, detail: "This was not the API, but something before it." };
  const problem = type.startsWith("application/problem+json") ? JSON.parse(told) : unknown;
  throw new Trouble({ ...problem, status: reply.status }, Number(reply.headers.get("Retry-After")) || 0);
}

/**
 * The events of a stream, read as https://html.spec.whatwg.org/multipage/server-sent-events.html says, until
 * it ends, breaks, or is silent for too long; keeps `state.lastId` and `state.retry`.
 */
async function* readEvents(body, state) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, afterCR, id, type, data] = ["", false, state.lastId, "", []];
  while (true) {
    const silence = setTimeout(() => reader.cancel(), SILENCE_MS);
    const { done, value } = await reader.read().catch(() => ({ done: true })); // a break is an end, too
    clearTimeout(silence);
    if (done) return; // an event whose blank line has not come is none
    const lines = (rest + (afterCR ? value.replace(/^\n/, "") : value)).split(/\r\n|\r|\n/);
    afterCR = value.endsWith("\r"); // its \n may come with the next piece
    rest = lines.pop();
    for (const line of lines) {
      const [, field, told] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "event") type = told;
      else if (field === "data") data.push(told);
      else if (field === "id" && !told.includes("\0")) id = told;
      else if (field === "retry" && /^\d+$/.test(told)) state.retry = Number(told);
      if (line) continue;
      state.lastId = id;
      if (data.length) yield { id, type: type || "message", data: data.join("\n") };
      [type, data] = ["", []];
    }
  }
}

/** Follow a run to its last event, over as many connections as that takes. @param {Run} run */
async function follow(run) {
  const signal = run.left.signal;
  for (let tries = 0; !signal.aborted; tries++) {
    let wait = 0;
    try {
      showQuestion(run, run.query ?? (await call(run.path, { signal })).query);
      const headers = run.lastId ? { "Last-Event-ID": run.lastId } : {};
      const body = await call(`${run.path}/events`, { headers, signal });
      if (tries) say("working", "Connected again …");
      for await (const { id, type, data } of readEvents(body, run)) {
        if (signal.aborted) return;
        tries = 0;
        show(run, id, type, JSON.parse(data));
        if (type === "done" || type === "error") return;
      }
    } catch (trouble) {
      if (!signal.aborted && !PASSING.includes(trouble.problem?.status)) throw trouble;
      wait = trouble.wait * 1000;
    }
    if (signal.aborted) return;
    say("lost", "Connection lost, trying again …");
    const backoff = Math.min(LONGEST_PAUSE_MS, run.retry * 2 ** tries) * (0.5 + Math.random() / 2);
    await new Promise((resolve) => setTimeout(resolve, Math.max(wait, backoff)));
  }
}

/** Where an event's id, EPOCH-SEQ, stands among the others. */
function order(id) {
  const [epoch, seq] = id.split("-").map(Number);
  return epoch * 1e9 + seq;
}

// ---- What is shown

/**
 * Change the page as an event tells. An `EventSource` would give `error` events to the handler of its own errors,
 * too: there, the run's are those with data. @param {Run} run
 */
function show(run, id, type, data) {
  if (type === "token") run.pieces.push({ id, text: data.text });
  if (type === "step") run.pieces = []; // what was said before a step was thinking aloud
  if (type === "reset") run.pieces = run.pieces.filter((piece) => order(piece.id) <= order(data.from_id));
  if (["token", "step", "reset"].includes(type)) run.frame ??= requestAnimationFrame(() => draw(run));
  if (type === "token") say("working", "Writing the answer …");
  if (type === "reset") say("working", "Another server goes on with this run …");
  if (type === "state" && data.name === "queued") say("working", "Many are asking: waiting for a place …");
  if (type === "step") showStep(run, data);
  if (type === "source") showSource(run, data);
  if (type === "usage") run.tokens = data.prompt_tokens + data.completion_tokens;
  if (type === "done") {
    finish(run, data.reason, ended(run, data.reason));
    $("ask-again").hidden = data.reason !== "cancelled";
  }
  if (type === "error") {
    finish(run, "failed", "This run failed.");
    showTrouble(data.problem, () => ask(run.query));
  }
}

function ended(run, reason) {
  if (reason === "cancelled") return "Cancelled.";
  if (reason === "length") return "The answer is cut off: it reached the limit of its length.";
  if (reason !== "stop") return `The answer is cut off (${reason}).`;
  const counts = [plural(run.steps.size, "step"), plural(run.sources.size, "source")];
  return `Finished: ${[...counts, ...(run.tokens ? [plural(run.tokens, "token")] : [])].join(", ")}.`;
}

/** Say how the run stands: screen readers speak each change, so these are whole phrases, not tokens. */
function say(state, phrase) {
  $("state").dataset.state = state;
  if ($("state").textContent !== phrase) $("state").textContent = phrase;
}

function showQuestion(run, query) {
  run.query = query;
  $("question").textContent = query;
  document.title = `${query.slice(0, 80)} · Research agent`;
}

/** Put an entry at a list's end; one with its id makes way. */
function place(list, item) {
  $(item.id)?.remove();
  $(list).append(item);
}

/** @param {Run} run  @param {Step} step */
function showStep(run, { n, tool, input, outcome }) {
  const page = [...run.sources.values()].find((source) => source.url === input.url)?.title ?? input.url;
  const tools = { web_search: `Searched for “${input.query}”`, fetch_page: `Read “${page}”` };
  const words = { ok: "Done.", empty: "Nothing found.", failed: "This failed.", refused: "Refused." };
  const phrase = tools[tool] ?? `Used ${tool} with ${JSON.stringify(input)}`;
  const came = element("span", { class: "outcome" }, words[outcome] ?? outcome);
  run.steps.set(n, outcome);
  place("steps", element("li", { id: `step-${n}`, class: outcome }, `${phrase} `, came));
  say("working", `${phrase}: ${came.textContent} Thinking …`);
}

/** @param {Run} run  @param {Source} source */
function showSource(run, source) {
  const { n, title, url, snippet, step } = source;
  const host = element("span", { class: "host" }, isWeb(url) ? new URL(url).host : url);
  const number = element("span", { class: "number" }, `[${n}]`);
  // No host of the web ends in .example (RFC 2606): these pages the agent's own search has made.
  const here = isWeb(url) && new URL(url).host.endsWith(".example");
  const opens = here ? new URL(`source?url=${encodeURIComponent(url)}`, document.baseURI).href : url;
  const parts = [number, " ", link(opens, title || url), host, element("p", {}, snippet)];
  run.sources.set(n, source);
  place("sources", element("li", { id: `source-${n}`, tabindex: -1 }, ...parts));
  const found = [...run.sources.values()].filter((other) => other.step === step).length;
  $(`step-${step}`)?.querySelector(".outcome").replaceChildren(`${plural(found, "source")} found.`);
}

/** A citation: a link that gives its source's entry the focus, which marks it. */
function citation(run, n) {
  if (!run.sources.has(n)) return `[${n}]`;
  const name = `[${n}] ${run.sources.get(n).title}`;
  const anchor = element("a", { class: "citation", href: location.hash, "aria-label": name }, `[${n}]`);
  anchor.addEventListener("click", (event) => {
    event.preventDefault();
    $(`source-${n}`).focus();
  });
  return anchor;
}

const answerOf = (run) => run.pieces.map((piece) => piece.text).join("");

/** Draw the answer from its first block that has changed: focus and selection in those before it stay. */
function draw(run) {
  run.frame = undefined;
  if (run.left.signal.aborted) return;
  const blocks = splitBlocks(answerOf(run).split("\n"));
  const texts = blocks.map((block) => block.lines.join("\n"));
  const kept = [...texts, null].findIndex((text, at) => text !== run.drawn[at]);
  for (const node of [...$("answer").children].slice(kept)) node.remove();
  $("answer").append(...blocks.slice(kept).map((block) => blockNode(block, (n) => citation(run, n))));
  run.drawn = texts;
}

function finish(run, state, phrase) {
  draw(run);
  say(state, phrase);
  $("answer").ariaBusy = "false";
  $("cancel").hidden = true;
  $("copy").hidden = run.pieces.length === 0;
}

let again = () => {};

/** Tell a problem in words, and offer another try. @param {Problem} problem */
function showTrouble(problem, retry) {
  again = retry;
  $("trouble-title").textContent = problem.title;
  $("trouble-detail").textContent = problem.detail;
  $("trouble-request").textContent = problem.request_id ? `Request id: ${problem.request_id}` : "";
  $("trouble").hidden = false;
  $("again").hidden = problem.status === 401;
  $("key-form").hidden = problem.status !== 401;
  if (problem.status === 401) $("key").focus();
}

/** Do what may meet trouble; tell it, and do it again when asked to. */
async function attempt(work) {
  $("trouble").hidden = true;
  try {
    await work();
  } catch (trouble) {
    if (!(trouble instanceof Trouble)) throw trouble;
    const wait = trouble.wait ? ` The server asks you to wait ${plural(trouble.wait, "second")}.` : "";
    showTrouble({ ...trouble.problem, detail: trouble.problem.detail + wait }, () => attempt(work));
  }
}

// ---- Markdown

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6}) +(.*)/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^ *([-*+]|\d{1,9}[.)])( +|$)/;
const KINDS = { code: FENCE, heading: HEADING, rule: RULE, quote: QUOTE, list: ITEM, text: /\S/, blank: /^/ };

const kindOf = (line) => Object.keys(KINDS).find((kind) => KINDS[kind].test(line));
const indent = (line) => line.search(/\S|$/);
const ordered = (item) => /^ *\d/.test(item);
const closes = (line, fence) => line.trim().startsWith(FENCE.exec(fence)[1]) && /^[`~ ]+$/.test(line);

/** Whether the line at `at` still belongs to the block of that kind that begins at `start`. */
function goesOn(kind, lines, start, at) {
  const next = kindOf(lines[at]);
  if (kind === "code") return at === start + 1 || !closes(lines[at - 1], lines[start]);
  if (kind !== "list") return next === kind && kind !== "heading" && kind !== "rule";
  if (next === "blank" || indent(lines[at]) > 1) return true;
  if (next === "text") return lines[at - 1].trim() !== "";
  return next === "list" && ordered(lines[at]) === ordered(lines[start]);
}

/** Lines of Markdown as blocks. */
function splitBlocks(lines) {
  const blocks = [];
  for (let start = 0, end; start < lines.length; start = end) {
    const kind = kindOf(lines[start]);
    for (end = start + 1; end < lines.length && goesOn(kind, lines, start, end); ) end++;
    if (kind !== "blank") blocks.push({ kind, lines: lines.slice(start, end) });
  }
  return blocks;
}

/** A block as an element; `cite(n)` gives what stands for a citation of source n. */
function blockNode({ kind, lines }, cite, depth = 0) {
  const inner = (text) => splitBlocks(text).map((block) => blockNode(block, cite, depth + 1));
  if (kind === "rule") return element("hr");
  if (kind === "code") {
    const end = lines.length > 1 && closes(lines.at(-1), lines[0]) ? -1 : undefined;
    return element("pre", { tabindex: 0 }, element("code", {}, lines.slice(1, end).join("\n")));
  }
  if (kind === "heading") {
    const [, marks, title] = HEADING.exec(lines[0]);
    return element(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(title.replace(/ #+ *$/, ""), cite));
  }
  if (kind === "text" || depth > 5) return element("p", {}, ...inline(lines.join("\n"), cite));
  if (kind === "quote") {
    return element("blockquote", {}, ...inner(lines.map((line) => line.replace(QUOTE, ""))));
  }
  const list = ordered(lines[0]) ? element("ol", { start: parseInt(lines[0]) }) : element("ul");
  for (const [first, ...others] of itemsOf(lines).map(inner)) {
    const parts = first?.tagName === "P" ? first.childNodes : [first ?? ""];
    list.append(element("li", {}, ...parts, ...others));
  }
  return list;
}

/** The items of a list, each as its lines without marker and indentation. */
function itemsOf(lines) {
  const items = [];
  let width = 0; // of the item's marker
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
// What ends each mark. No `*` may stand between two `*` or two `_`: there the search for their end is in vain.
const ENDS = {
  "**": /(?<end>(?<=\S)\*\*(?!\*))/g,
  __: /(?<end>(?<=\S)__(?!\*))/g,
  "*": /(?<end>(?<=[^\s*_])\*(?!\w))|\*/g,
  _: /(?<end>(?<=[^\s*_])_(?!\w))|\*/g,
};

/**
 * A function that finds where a mark ends whose content begins at `from`, or -1; `from` may only grow.
 * Each part of the text is searched once for each kind of mark, however many marks have no end.
 */
function endFinder(text) {
  const runs = {}; // of backticks: where they begin, by their length, the last one first
  for (const { 0: run, index } of text.matchAll(/`+/g)) (runs[run] ??= []).push(index);
  for (const each of Object.values(runs)) each.reverse();
  const vain = {}; // by mark, up to where there is no end
  return (mark, from) => {
    if (mark[0] === "`") {
      while (runs[mark]?.at(-1) < from) runs[mark].pop();
      return runs[mark]?.at(-1) ?? -1;
    }
    if (from < vain[mark]) return -1;
    ENDS[mark].lastIndex = from + 1;
    const found = ENDS[mark].exec(text);
    if (found?.groups.end) return found.index;
    vain[mark] = found?.index ?? Infinity;
    return -1;
  };
}

/** Text with Markdown's marks as nodes and strings. */
function inline(text, cite) {
  const nodes = [];
  const findEnd = endFinder(text);
  let [end, found] = [0]; // of what is in `nodes`, and the next mark
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
    else if (mark) nodes.push(element(strong ? "strong" : "em", {}, ...inline(content, cite)));
    else if (cited) nodes.push(cite(Number(cited)));
    else if (bare) nodes.push(link(bare, bare));
    else nodes.push(isWeb(url) ? link(url, label || url) : found[0]);
  }
  return [...nodes, text.slice(end)];
}

// ---- This browser's runs

/** @returns {{id: string, query: string, time: number}[]}  newest first */
const past = () => JSON.parse(localStorage.getItem(RUNS) ?? "[]");

function keep(runs) {
  localStorage.setItem(RUNS, JSON.stringify(runs.slice(0, HISTORY_LENGTH)));
  showPast();
}

function showPast() {
  $("runs").replaceChildren(...past().map(pastEntry));
}

function pastEntry({ id, query, time }) {
  const when = new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const stamp = element("time", { datetime: new Date(time).toISOString() }, when);
  const remove = element("button", { type: "button", "aria-label": `Delete “${query}”` }, "×");
  remove.addEventListener("click", () => {
    keep(past().filter((run) => run.id !== id));
    ($("runs").querySelector("a") ?? $("query")).focus();
  });
  const entry = element("a", { href: `#run=${encodeURIComponent(id)}` }, element("span", {}, query), stamp);
  return element("li", {}, entry, remove);
}

// ---- What is done

let open; // the run that is shown

/** Ask, with one key for all tries: a try whose reply got lost does not start a second run. */
function ask(query) {
  // not crypto.randomUUID(), which browsers have under HTTPS alone
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  const body = JSON.stringify({ query, background: true });
  return attempt(async () => {
    $("send").disabled = true; // until the reply, so that a second click does not ask twice
    const sent = call("", { method: "POST", headers, body });
    const { id } = await sent.finally(() => ($("send").disabled = false));
    keep([{ id, query, time: Date.now() }, ...past()]);
    $("query").value = "";
    location.hash = `run=${encodeURIComponent(id)}`;
  });
}

/** Ask for the run's end; its last event tells when that has come. */
function cancel() {
  say("working", "Cancelling …");
  return attempt(() => call(open.path, { method: "DELETE" }));
}

/** Copy the answer's Markdown and the list of its sources. */
async function copy() {
  const sources = [...open.sources.values()].map(({ n, title, url }) => `${n}. [${title}](${url})`);
  const parts = [answerOf(open).trim(), ...(sources.length ? ["## Sources", sources.join("\n")] : [])];
  const text = parts.join("\n\n");
  const allowed = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  $("copied").textContent = allowed || copySelected(text) ? "Copied" : "The browser forbids copying";
  setTimeout(() => ($("copied").textContent = ""), 3000);
}

/** The old way to copy, which needs neither permission nor HTTPS. */
function copySelected(text) {
  const area = element("textarea", { class: "off-screen", "aria-hidden": "true" }, text);
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  $("copy").focus();
  return copied;
}

/** What is known of a run before its first event. */
function newRun(id, query) {
  return {
    path: `/${encodeURIComponent(id)}`,
    query,
    left: new AbortController(), // aborted when another view is opened
    lastId: "", // of the last event
    retry: 500, // milliseconds before the first try to connect again
    pieces: [], // of the answer: {id of the event, text}
    drawn: [], // the answer's blocks as they stand on the page
    steps: new Map(),
    sources: new Map(),
  };
}

async function openRun(id) {
  const run = newRun(id, past().find((each) => each.id === id)?.query);
  open = run;
  for (const list of ["steps", "answer", "sources"]) $(list).replaceChildren();
  $("question").textContent = run.query ?? "Research run";
  $("answer").ariaBusy = "true";
  $("body").hidden = $("cancel").hidden = false;
  $("copy").hidden = $("ask-again").hidden = true;
  say("working", "Thinking …");
  $("question").focus();
  try {
    await follow(run);
  } catch (trouble) {
    const gone = trouble.problem?.status === 404;
    const reason = gone ? "is gone: the server keeps runs for a while only" : "cannot be shown";
    finish(run, "failed", `This run ${reason}.`);
    $("body").hidden = run.lastId === "";
    if (!gone || !run.query) throw trouble;
    showTrouble(trouble.problem, () => ask(run.query));
  }
}

/** Open the view that the address names. */
function route() {
  open?.left.abort();
  const id = new URLSearchParams(location.hash.slice(1)).get("run");
  const view = id ? "run" : "home";
  for (const part of document.querySelectorAll("[data-view]")) part.hidden = part.dataset.view !== view;
  if (id) return attempt(() => openRun(id));
  document.title = "Research agent";
  $("trouble").hidden = true;
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
  sessionStorage.setItem(KEY, $("key").value);
  $("key").value = "";
  again();
});
on("again", "click", () => again());
on("cancel", "click", cancel);
on("ask-again", "click", () => ask(open.query));
on("copy", "click", copy);
on("clear", "click", () => {
  keep([]);
  $("query").focus();
});
on("skip", "click", (event) => {
  event.preventDefault(); // the address names the run
  $("main").focus();
});
window.addEventListener("hashchange", route);
window.addEventListener("storage", showPast); // another tab of this browser has asked
showPast();
route();

export { blockNode, readEvents, splitBlocks };
