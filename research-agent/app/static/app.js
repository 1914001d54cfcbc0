/**
 * The research agent's page: asks, follows the run's events, and shows what they tell.
 *
 * What the model and its sources say becomes text nodes, never HTML.
 *
 * @typedef {{title: string, detail: string, status?: number, request_id?: string}} Problem
 * @typedef {{n: number, tool: string, input: Record<string, string>, outcome: string}} Step
 * @typedef {{n: number, title: string, url: string, snippet: string, step: number}} Source
 * @typedef {{type: string, id: string, data: string}} ServerEvent
 * @typedef {object} Run  What the open run's events have told so far.
 * @property {string} id
 * @property {string} lastId  of the last event seen
 * @property {number} retry  milliseconds before the first try to connect again
 * @property {string} [query]
 * @property {{id: string, text: string}[]} pieces  of the answer, each with its event's id
 * @property {Map<number, Step>} steps
 * @property {Map<number, Source>} sources
 * @property {string[]} drawn  the answer's blocks as they stand on the page
 * @property {AbortController} left  aborted when another view is opened
 */

const HISTORY_LENGTH = 50;
const LONGEST_PAUSE_MS = 10_000;
const SILENCE_MS = 45_000; // the server's pings come every 15 s: a connection this silent is dead
const DEEPEST_NESTING = 6;

const $ = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text nodes. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A link to the web, or the plain text where the address is not http(s). */
function link(url, ...children) {
  if (!/^https?:$/.test(URL.canParse(url) && new URL(url).protocol)) return element("span", {}, ...children);
  return element("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

// ------------------------------------------------------------------------------------------ the API

/** The server's refusal, or none of its answers at all. */
class Trouble extends Error {
  /** @param {Problem} problem */
  constructor(problem, retryAfter = 0) {
    super(problem.title);
    this.problem = problem;
    this.retryAfter = retryAfter;
  }

  get passes() {
    return [429, 502, 503, 504].includes(this.problem.status);
  }
}

/** A successful reply; throws Trouble for a refusal and TypeError, as fetch does, for a lost connection. */
async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem("api-key");
  if (key) headers.set("X-API-Key", key);
  const reply = await fetch(`v1/research${path}`, { ...options, headers, cache: "no-store" });
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => ({})); // a proxy's error page is no JSON
  const other = { title: `HTTP ${reply.status}`, detail: "Something between this page and its server refused." };
  throw new Trouble({ ...other, ...said, status: reply.status }, Number(reply.headers.get("Retry-After")) || 0);
}

/**
 * The events of an SSE body, as in https://html.spec.whatwg.org/multipage/server-sent-events.html; keeps
 * `state.lastId` and `state.retry`. Ends when the body does, or when it is silent for too long.
 * @param {ReadableStream<Uint8Array>} body
 * @param {{lastId: string, retry: number}} state
 * @returns {AsyncGenerator<ServerEvent>}
 */
async function* readEvents(body, state) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, afterCR, id, type, data] = ["", false, state.lastId, "", []];
  while (true) {
    const silence = setTimeout(() => reader.cancel(), SILENCE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return; // an event without its blank line was cut off: it is not an event
    const text = afterCR && value[0] === "\n" ? value.slice(1) : value; // the other half of a CR LF
    afterCR = value.endsWith("\r");
    const lines = (rest + text).split(/\r\n|\r|\n/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, told] = /^([^:]*):? ?(.*)$/su.exec(line);
      if (field === "event") type = told;
      else if (field === "data") data.push(told);
      else if (field === "id" && !told.includes("\0")) id = told;
      else if (field === "retry" && /^\d+$/.test(told)) state.retry = Number(told);
      if (line !== "") continue;
      state.lastId = id;
      if (data.length) yield { type: type || "message", id, data: data.join("\n") };
      [type, data] = ["", []];
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", resolve);
  });
}

/** Follow a run to its last event, over as many connections as that takes. @param {Run} run */
async function follow(run) {
  const signal = run.left.signal;
  const path = `/${encodeURIComponent(run.id)}`;
  for (let attempt = 0; ; attempt++) {
    let wait = 0;
    try {
      if (run.query === undefined) showQuestion(run, (await (await call(path, { signal })).json()).query);
      const headers = run.lastId ? { "Last-Event-ID": run.lastId } : {};
      const reply = await call(`${path}/events`, { headers, signal });
      if (attempt) say("working", "Connected again …");
      for await (const event of readEvents(reply.body, run)) {
        attempt = 0;
        show(run, event.type, JSON.parse(event.data), event.id);
        if (event.type === "done" || event.type === "error") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Trouble ? !error.passes : !(error instanceof TypeError)) throw error;
      wait = 1000 * (error.retryAfter ?? 0);
    }
    say("lost", "Connection lost, trying again …");
    const backoff = Math.min(LONGEST_PAUSE_MS, run.retry * 2 ** attempt) * (0.5 + Math.random() / 2);
    await pause(Math.max(wait, backoff), signal);
  }
}

// ---------------------------------------------------------------------------------------- the events

/** Whether one event's id, EPOCH-SEQ, comes after another's. */
function isAfter(id, other) {
  const [[epoch, number], [otherEpoch, otherNumber]] = [id, other].map((each) => each.split("-").map(Number));
  return epoch > otherEpoch || (epoch === otherEpoch && number > otherNumber);
}

/** Change the page as an event tells. @param {Run} run */
function show(run, type, data, id) {
  switch (type) {
    case "token":
      run.pieces.push({ id, text: data.text });
      say("working", "Writing the answer …");
      return drawSoon(run);
    case "step": // what was said before it was thinking aloud
      run.pieces = [];
      run.steps.set(data.n, data);
      showStep(data);
      say("working", `${outcome(run, data)} Thinking on …`);
      return drawSoon(run);
    case "source":
      run.sources.set(data.n, data);
      run.drawn = []; // a citation of it may stand there
      showSource(data);
      return showOutcome(run, run.steps.get(data.step));
    case "reset":
      run.pieces = run.pieces.filter((piece) => !isAfter(piece.id, data.from_id));
      say("working", "Another server goes on with the run …");
      return drawSoon(run);
    case "usage":
      run.tokens = data.prompt_tokens + data.completion_tokens;
      return;
    case "error":
      end("failed", "The run failed.");
      return showTrouble(data.problem, () => ask(run.query));
    case "done":
      return end(data.reason === "stop" ? "done" : "stopped", ended(run, data.reason));
  }
}

/** What a step came to, in words. @param {Run} run @param {Step} step */
function outcome(run, step) {
  const found = [...run.sources.values()].filter((source) => source.step === step.n).length;
  const words = { empty: "Found nothing.", failed: "This failed.", refused: "This was refused." };
  return words[step.outcome] ?? (found ? `Found ${plural(found, "source")}.` : "Done.");
}

function ended(run, reason) {
  if (reason === "cancelled") return "Cancelled.";
  if (reason === "length") return "Finished, but the answer was cut off: it reached its length limit.";
  if (reason !== "stop") return `The answer was cut off (${reason}).`;
  const counts = [plural(run.steps.size, "step"), plural(run.sources.size, "source"), plural(run.tokens, "token")];
  return `Finished: ${counts.join(", ")}.`;
}

// -------------------------------------------------------------------------------------- what is shown

/** @type {Run | null} */
let open = null;

/** Say the run's state, as whole phrases: screen readers speak each change. */
function say(state, phrase) {
  $("state").dataset.state = state;
  if ($("state").textContent !== phrase) $("state").textContent = phrase;
}

function end(state, phrase) {
  draw(open);
  say(state, phrase);
  $("answer").ariaBusy = "false";
  $("cancel").hidden = true;
  $("copy").hidden = open.pieces.length === 0;
}

/** @param {Step} step */
function showStep(step) {
  const [verb, what] = {
    web_search: ["Searched the web for", element("q", {}, step.input.query ?? "")],
    fetch_page: ["Read", link(step.input.url, step.input.url ?? "")],
  }[step.tool] ?? [`Used ${step.tool} with`, element("code", {}, JSON.stringify(step.input))];
  const item = element("li", { id: `step-${step.n}` }, `${verb} `, what, element("span", { class: "outcome" }));
  item.dataset.tool = step.tool;
  place($("steps"), item);
  showOutcome(open, step);
}

function showOutcome(run, step) {
  if (!step) return;
  $(`step-${step.n}`).dataset.outcome = step.outcome;
  $(`step-${step.n}`).querySelector(".outcome").textContent = outcome(run, step);
}

/** @param {Source} source */
function showSource(source) {
  const title = link(source.url, source.title || source.url);
  const host = URL.canParse(source.url) ? new URL(source.url).host : source.url;
  const parts = [title, element("span", { class: "host" }, host), element("p", {}, source.snippet)];
  place($("sources"), element("li", { id: `source-${source.n}`, tabindex: -1, value: source.n }, ...parts));
}

/** Put an entry into its list; it takes the place of the one with its id. */
function place(list, item) {
  const known = $(item.id);
  if (known) known.replaceWith(item);
  else list.append(item);
}

/** The source a citation points at gets the focus, which scrolls to it and marks it. */
function cite(run, n) {
  const source = run.sources.get(n);
  if (!source) return `[${n}]`;
  const anchor = element("a", { class: "citation", href: `#run=${run.id}`, "aria-label": `[${n}] ${source.title}` }, `[${n}]`);
  anchor.addEventListener("click", (event) => {
    event.preventDefault();
    $(`source-${n}`).focus();
  });
  return anchor;
}

const answerOf = (run) => run.pieces.map((piece) => piece.text).join("");

/** Draw the answer once before the next frame, however many tokens arrive. */
function drawSoon(run) {
  run.frame ??= requestAnimationFrame(() => draw(run));
}

/** Draw those blocks of the answer that have changed: a focus or a selection in the others stays. */
function draw(run) {
  run.frame = undefined;
  if (run !== open) return;
  const blocks = splitBlocks(answerOf(run).split("\n"));
  const texts = blocks.map((block) => block.lines.join("\n"));
  const same = texts.findIndex((text, at) => text !== run.drawn[at]);
  const kept = same === -1 ? texts.length : same;
  const nodes = [...$("answer").children];
  nodes.slice(kept).forEach((node) => node.remove());
  $("answer").append(...blocks.slice(kept).map((block) => blockNode(block, (n) => cite(run, n))));
  run.drawn = texts;
}

/** @param {Problem} problem @param {() => void} retry */
function showTrouble(problem, retry) {
  $("trouble-title").textContent = problem.title;
  $("trouble-detail").textContent = problem.detail;
  $("trouble-request").textContent = problem.request_id ? `Request id: ${problem.request_id}` : "";
  $("key-form").hidden = problem.status !== 401;
  $("again").hidden = problem.status === 401;
  $("trouble").hidden = false;
  again = retry;
  if (problem.status === 401) $("key").focus();
}

let again = () => {};

/** Any error as a problem in words. @returns {Problem} */
function inWords(error) {
  if (error instanceof TypeError)
    return { title: "The server cannot be reached", detail: "Is the network there? Your question is kept; try again." };
  if (!(error instanceof Trouble)) throw error;
  const { problem, retryAfter } = error;
  return retryAfter ? { ...problem, detail: `${problem.detail} Try again in ${plural(retryAfter, "second")}.` } : problem;
}

// ------------------------------------------------------------------------------------------ Markdown

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6}) +(.*)/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^ *([-*+]|\d{1,9}[.)])( +|$)/;
const ROW = /^ {0,3}\|(.*)\| *$/;
const KINDS = { code: FENCE, heading: HEADING, rule: RULE, quote: QUOTE, list: ITEM, table: ROW, text: /\S/, blank: /^/ };

const kindOf = (line) => Object.keys(KINDS).find((kind) => KINDS[kind].test(line));
const ordered = (item) => /^ *\d/.test(item);
const indent = (line) => line.search(/\S|$/);
const closes = (line, fence) => line.trim().startsWith(FENCE.exec(fence)[1]) && /^[`~]+$/.test(line.trim());

/** Whether the line at `at` goes on with the block of that kind that began at `start`. */
function goesOn(kind, lines, start, at) {
  const next = kindOf(lines[at]);
  if (kind === "code") return at === start + 1 || !closes(lines[at - 1], lines[start]);
  if (kind !== "list") return next === kind && kind !== "heading" && kind !== "rule";
  if (next === "blank" || indent(lines[at]) >= 2) return true;
  return next === "text" ? lines[at - 1].trim() !== "" : next === "list" && ordered(lines[at]) === ordered(lines[start]);
}

/** Lines of Markdown as blocks: {kind, lines}. */
function splitBlocks(lines) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    const [start, kind] = [at, kindOf(lines[at])];
    do at++;
    while (at < lines.length && goesOn(kind, lines, start, at));
    if (kind !== "blank") blocks.push({ kind, lines: lines.slice(start, at) });
  }
  return blocks;
}

/** A block as an element; `cite(n)` gives the node for a citation of source n. */
function blockNode({ kind, lines }, cite, depth = 0) {
  const text = lines.join("\n");
  const inside = (inner) => splitBlocks(inner).map((block) => blockNode(block, cite, depth + 1));
  if (depth > DEEPEST_NESTING) return element("p", {}, text);
  if (kind === "code") {
    const whole = lines.length > 1 && closes(lines.at(-1), lines[0]);
    return element("pre", { tabindex: 0 }, element("code", {}, lines.slice(1, whole ? -1 : undefined).join("\n")));
  }
  if (kind === "heading") {
    const [, marks, title] = HEADING.exec(text);
    return element(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(title.replace(/ +#+ *$/, ""), cite));
  }
  if (kind === "rule") return element("hr");
  if (kind === "quote") return element("blockquote", {}, ...inside(lines.map((line) => line.replace(QUOTE, ""))));
  if (kind === "list") return listNode(lines, cite, inside);
  if (kind === "table") return tableNode(lines, cite);
  return element("p", {}, ...inline(text, cite));
}

function listNode(lines, cite, inside) {
  const items = [];
  let width = 0; // of an item's marker: its later lines are indented by as much
  for (const line of lines) {
    const found = indent(line) < indent(lines[0]) + 2 && ITEM.exec(line);
    if (found) {
      width = found[0].length;
      items.push([line.slice(width)]);
    } else items.at(-1).push(line.slice(Math.min(indent(line), width)));
  }
  const list = ordered(lines[0]) ? element("ol", { start: parseInt(lines[0].trim(), 10) }) : element("ul");
  for (const item of items) {
    const [first, ...others] = inside(item);
    list.append(element("li", {}, ...(first?.tagName === "P" ? first.childNodes : first ? [first] : []), ...others));
  }
  return list;
}

function tableNode(lines, cite) {
  const rows = lines.map((line) => ROW.exec(line)[1].split("|").map((cell) => cell.trim()));
  if (!rows[1]?.every((cell) => /^:?-+:?$/.test(cell))) return element("p", {}, ...inline(lines.join("\n"), cite));
  const row = (cells, tag) => element("tr", {}, ...cells.map((cell) => element(tag, {}, ...inline(cell, cite))));
  const head = element("thead", {}, row(rows[0], "th"));
  const body = element("tbody", {}, ...rows.slice(2).map((cells) => row(cells, "td")));
  return element("div", { class: "table", tabindex: 0 }, element("table", {}, head, body));
}

const INLINE = new RegExp(
  [
    /\\(?<escaped>[!-/:-@[-`{-~])/,
    /(?<ticks>`+)(?<code>.*?[^`])\k<ticks>(?!`)/,
    /\*\*(?<bold>\S.*?)\*\*(?!\*)/,
    /\*(?<italic>[^\s*](?:[^*]*[^\s*])?)\*/,
    /(?<!\w)__(?<bold_>\S.*?)__(?!\w)/,
    /(?<!\w)_(?<italic_>[^\s_](?:[^_]*[^\s_])?)_(?!\w)/,
    /!?\[(?<label>[^\][]*)\]\(<?(?<url>[^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*)>?(?: +"[^"]*")?\)/,
    /\[(?<cited>\d{1,3})\]/,
    /(?<bare>https?:\/\/[^\s<>()[\]"'`*]*[^\s<>()[\]"'`*.,;:!?_])/,
  ].map((part) => part.source).join("|"),
  "gsu",
);

/** Text with Markdown's marks as nodes. */
function inline(text, cite) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const { escaped, code, bold, bold_, italic, italic_, label, url, cited, bare } = found.groups;
    nodes.push(text.slice(end, found.index));
    end = found.index + found[0].length;
    if (escaped) nodes.push(escaped);
    else if (code) nodes.push(element("code", {}, code.trim()));
    else if (bold ?? bold_) nodes.push(element("strong", {}, ...inline(bold ?? bold_, cite)));
    else if (italic ?? italic_) nodes.push(element("em", {}, ...inline(italic ?? italic_, cite)));
    else if (cited) nodes.push(cite(Number(cited)));
    else if (bare) nodes.push(link(bare, bare));
    else nodes.push(isWeb(url) ? link(url, label || url) : found[0]);
  }
  return [...nodes, text.slice(end)];
}

// --------------------------------------------------------------------------------- this browser's runs

/** @returns {{id: string, query: string, time: number}[]} the newest first */
function history() {
  return JSON.parse(localStorage.getItem("runs") ?? "[]");
}

function keep(runs) {
  localStorage.setItem("runs", JSON.stringify(runs.slice(0, HISTORY_LENGTH)));
  showHistory();
}

function showHistory() {
  $("history").classList.toggle("empty", history().length === 0);
  $("runs").replaceChildren(...history().map((run) => {
    const time = element("time", { datetime: new Date(run.time).toISOString() }, new Date(run.time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }));
    const remove = element("button", { type: "button", "aria-label": `Delete "${run.query}"` }, "×");
    remove.addEventListener("click", () => {
      keep(history().filter((other) => other.id !== run.id));
      ($("runs").querySelector("a") ?? $("query")).focus();
    });
    return element("li", {}, element("a", { href: `#run=${encodeURIComponent(run.id)}` }, run.query, time), remove);
  }));
}

// --------------------------------------------------------------------------------------- what is done

/** A random name for one request to start a run. `crypto.randomUUID` is there only under HTTPS. */
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Ask; a second try after a lost connection sends the same key, so that it never starts a second run. */
async function ask(query, key = newKey()) {
  $("send").disabled = true;
  try {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    const reply = await call("", { method: "POST", headers, body: JSON.stringify({ query, background: true }) });
    const { id } = await reply.json();
    keep([{ id, query, time: Date.now() }, ...history()]);
    $("query").value = "";
    location.hash = `run=${encodeURIComponent(id)}`;
  } catch (error) {
    showTrouble(inWords(error), () => ask(query, key));
  } finally {
    $("send").disabled = false;
  }
}

async function cancel(run) {
  $("cancel").disabled = true;
  try {
    await call(`/${encodeURIComponent(run.id)}`, { method: "DELETE" });
  } catch (error) {
    showTrouble(inWords(error), () => cancel(run));
  } finally {
    $("cancel").disabled = false;
  }
}

/** Open the view that the address names. */
function route() {
  open?.left.abort();
  $("trouble").hidden = true;
  const id = new URLSearchParams(location.hash.slice(1)).get("run");
  for (const part of document.querySelectorAll("[data-view]")) part.hidden = part.dataset.view !== (id ? "run" : "home");
  if (id) openRun(id);
  else {
    document.title = "Research agent";
    $("query").focus();
  }
}

export { blockNode, readEvents, splitBlocks };
