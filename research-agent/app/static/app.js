/**
 * The research agent's page: asks, follows the run's events, and shows what they tell.
 * What the model and its sources say becomes text nodes, never HTML.
 *
 * @typedef {{status: number, title: string, detail: string, request_id?: string}} Problem
 * @typedef {{n: number, tool: string, input: Record<string, string>, outcome: string}} Step
 * @typedef {{n: number, title: string, url: string, snippet: string, step: number}} Source
 * @typedef {object} Run  What the events of the open run have told so far.
 * @property {string} id
 * @property {string} [query]
 * @property {string} lastId  of the last event seen
 * @property {number} retry  milliseconds before the first try to connect again
 * @property {{id: string, text: string}[]} pieces  of the answer, each with its event's id
 * @property {Map<number, Step>} steps
 * @property {Map<number, Source>} sources
 * @property {string[]} drawn  the answer's blocks, as they stand on the page
 * @property {AbortController} left  aborted when another view is opened
 */

const HISTORY_LENGTH = 50;
const LONGEST_PAUSE_MS = 10_000;
const SILENCE_MS = 45_000; // the server pings every 15 s: a connection as silent as this is dead
const PASSING = [0, 429, 502, 503, 504]; // statuses of troubles that may be over at the next try
const DEEPEST_NESTING = 6;

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

/** A link to the web; plain text where the address is no http(s) one. */
function link(url, text) {
  const attributes = { href: url, target: "_blank", rel: "noopener noreferrer nofollow" };
  return isWeb(url) ? element("a", attributes, text) : element("span", {}, text);
}

// ------------------------------------------------------------------------------------------- the API

class Trouble extends Error {
  /** @param {Problem} problem  @param {number} wait  the seconds of Retry-After */
  constructor(problem, wait = 0) {
    super(problem.title);
    Object.assign(this, { problem, wait });
  }
}

function lost() {
  const detail = "Check that it runs and that you are connected, then try again.";
  throw new Trouble({ status: 0, title: "The server cannot be reached", detail });
}

/** What the API replies: a stream's body, otherwise the JSON; throws Trouble when there is neither. */
async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (sessionStorage.getItem("api-key")) headers.set("X-API-Key", sessionStorage.getItem("api-key"));
  const reply = await fetch(`v1/research${path}`, { ...options, headers, cache: "no-store" }).catch(lost);
  const type = reply.headers.get("Content-Type") ?? "";
  if (reply.ok && type.startsWith("text/event-stream")) return reply.body;
  const told = await reply.text().catch(lost);
  if (reply.ok) return JSON.parse(told);
  const problem = { title: `HTTP ${reply.status}`, detail: "Something between this page and the API refused." };
  if (type.startsWith("application/problem+json")) Object.assign(problem, JSON.parse(told));
  throw new Trouble({ ...problem, status: reply.status }, Number(reply.headers.get("Retry-After")) || 0);
}

/**
 * The events of a stream, as https://html.spec.whatwg.org/multipage/server-sent-events.html reads them, to
 * the body's end or until it is silent for too long; keeps `state.lastId` and `state.retry`.
 */
async function* readEvents(body, state) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, afterCR, id, type, data] = ["", false, state.lastId, "", []];
  while (true) {
    const silence = setTimeout(() => reader.cancel(), SILENCE_MS);
    const { done, value } = await reader.read().catch(() => ({ done: true })); // cut off is an end, too
    clearTimeout(silence);
    if (done) return; // an event whose blank line is missing is none
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

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", resolve);
  });
}

/** Follow a run to its last event, over as many connections as that takes. @param {Run} run */
async function follow(run) {
  const [signal, path] = [run.left.signal, `/${encodeURIComponent(run.id)}`];
  for (let attempt = 0; ; attempt++) {
    let wait = 0;
    try {
      if (!run.query) showQuestion(run, (await call(path, { signal })).query);
      const headers = run.lastId ? { "Last-Event-ID": run.lastId } : {};
      const body = await call(`${path}/events`, { headers, signal });
      if (attempt) say("working", "Connected again …");
      for await (const { id, type, data } of readEvents(body, run)) {
        if (signal.aborted) return;
        attempt = 0;
        show(run, id, type, JSON.parse(data));
        if (type === "done" || type === "error") return;
      }
    } catch (error) {
      if (!signal.aborted && !PASSING.includes(error.problem?.status)) throw error;
      wait = error.wait * 1000;
    }
    if (signal.aborted) return;
    say("lost", "Connection lost, trying again …");
    const backoff = Math.min(LONGEST_PAUSE_MS, run.retry * 2 ** attempt);
    await pause(Math.max(wait, backoff * (0.5 + Math.random() / 2)), signal);
  }
}

// ---------------------------------------------------------------------------------------- the events

/** Whether an event's id, EPOCH-SEQ, comes after another's. */
function isAfter(id, other) {
  const [[epoch, seq], [otherEpoch, otherSeq]] = [id, other].map((each) => each.split("-").map(Number));
  return epoch === otherEpoch ? seq > otherSeq : epoch > otherEpoch;
}

/** Change the page as an event tells. @param {Run} run */
function show(run, id, type, data) {
  if (type === "token") {
    run.pieces.push({ id, text: data.text });
    say("working", "Writing the answer …");
    drawSoon(run);
  } else if (type === "step") {
    run.pieces = []; // what was said before a step was thinking aloud
    run.steps.set(data.n, data);
    showStep(run, data);
    drawSoon(run);
  } else if (type === "source") {
    run.sources.set(data.n, data);
    showSource(run, data);
  } else if (type === "reset") {
    run.pieces = run.pieces.filter((piece) => !isAfter(piece.id, data.from_id));
    say("working", "Another server goes on with this run …");
    drawSoon(run);
  } else if (type === "usage") {
    run.tokens = data.prompt_tokens + data.completion_tokens;
  } else if (type === "error") {
    finish(run, "failed", "This run failed.");
    showTrouble(data.problem, () => ask(run.query));
  } else if (type === "done") {
    const counts = [plural(run.steps.size, "step"), plural(run.sources.size, "source")];
    if (run.tokens) counts.push(plural(run.tokens, "token"));
    const phrases = {
      stop: `Finished: ${counts.join(", ")}.`,
      length: "The answer is cut off here: it reached the limit of its length.",
      cancelled: "Cancelled.",
    };
    finish(run, data.reason, phrases[data.reason] ?? `The answer is cut off here (${data.reason}).`);
  }
}

// -------------------------------------------------------------------------------------- what is shown

/** Say how it stands. Screen readers speak each change, so these are whole phrases. */
function say(state, phrase) {
  $("state").dataset.state = state;
  if ($("state").textContent !== phrase) $("state").textContent = phrase;
}

function showQuestion(run, query) {
  run.query = query;
  $("question").textContent = query;
  document.title = `${query.slice(0, 60)} · Research agent`;
}

/** @param {Run} run  @param {Step} step */
function showStep(run, { n, tool, input, outcome }) {
  const told = { web_search: `Searched the web for “${input.query}”`, fetch_page: `Read ${input.url}` };
  const phrase = told[tool] ?? `Used ${tool} with ${JSON.stringify(input)}`;
  const words = { ok: "It worked.", empty: "It found nothing.", failed: "It failed.", refused: "It was refused." };
  const note = element("span", { class: "outcome" }, words[outcome] ?? outcome);
  place("steps", element("li", { id: `step-${n}`, class: outcome }, `${phrase}. `, note));
  say("working", `${phrase}. ${note.textContent} Thinking …`);
}

/** @param {Run} run  @param {Source} source */
function showSource(run, { n, title, url, snippet, step }) {
  const host = element("span", { class: "host" }, isWeb(url) ? new URL(url).host : url);
  const parts = [link(url, title || url), host, element("p", {}, snippet)];
  place("sources", element("li", { id: `source-${n}`, value: n, tabindex: -1 }, ...parts));
  const found = [...run.sources.values()].filter((source) => source.step === step).length;
  $(`step-${step}`)?.querySelector(".outcome").replaceChildren(`It gave ${plural(found, "source")}.`);
}

/** Put an entry into a list, in the place of the one with its id if there is one. */
function place(list, item) {
  if ($(item.id)) $(item.id).replaceWith(item);
  else $(list).append(item);
}

/** A citation: a link to the source's entry, which gets the focus and by that is marked. */
function cite(run, n) {
  const source = run.sources.get(n);
  if (!source) return `[${n}]`;
  const attributes = { class: "citation", href: location.hash, "aria-label": `[${n}] ${source.title}` };
  const anchor = element("a", attributes, `[${n}]`);
  anchor.addEventListener("click", (event) => {
    event.preventDefault();
    $(`source-${n}`).focus();
  });
  return anchor;
}

const answerOf = (run) => run.pieces.map((piece) => piece.text).join("");

/** Draw the answer before the next frame, once for all the tokens that arrive until then. */
function drawSoon(run) {
  run.frame ??= requestAnimationFrame(() => draw(run));
}

/** Draw the blocks from the first that has changed: focus and selection in those before it stay. */
function draw(run) {
  run.frame = undefined;
  if (run.left.signal.aborted) return;
  const blocks = splitBlocks(answerOf(run).split("\n"));
  const texts = blocks.map((block) => block.lines.join("\n"));
  const changed = texts.findIndex((text, at) => text !== run.drawn[at]);
  const kept = changed === -1 ? texts.length : changed;
  for (const node of [...$("answer").children].slice(kept)) node.remove();
  $("answer").append(...blocks.slice(kept).map((block) => blockNode(block, (n) => cite(run, n))));
  run.drawn = texts;
}

function finish(run, state, phrase) {
  draw(run);
  say(state, phrase);
  $("answer").ariaBusy = "false";
  $("cancel").hidden = true;
  $("copy").hidden = !run.pieces.length;
}

let again = () => {};

/** Tell a problem in words, and offer to try again. @param {Problem} problem */
function showTrouble(problem, retry) {
  again = retry;
  $("trouble-title").textContent = problem.title;
  $("trouble-detail").textContent = problem.detail;
  $("trouble-request").textContent = problem.request_id ? `Request id: ${problem.request_id}` : "";
  $("trouble").hidden = false;
  $("key-form").hidden = problem.status !== 401;
  $("again").hidden = problem.status === 401;
  if (problem.status === 401) $("key").focus();
}

/** Do it; a Trouble on the way is told, and may be tried again. */
async function attempt(work) {
  $("trouble").hidden = true;
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    const wait = error.wait ? ` The server asks you to wait ${plural(error.wait, "second")}.` : "";
    showTrouble({ ...error.problem, detail: error.problem.detail + wait }, () => attempt(work));
  }
}

// ------------------------------------------------------------------------------------------- Markdown

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6}) +(.*)/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^ *([-*+]|\d{1,9}[.)])( +|$)/;
const KINDS = { code: FENCE, heading: HEADING, rule: RULE, quote: QUOTE, list: ITEM, text: /\S/, blank: /^/ };

const kindOf = (line) => Object.keys(KINDS).find((kind) => KINDS[kind].test(line));
const indent = (line) => line.search(/\S|$/);
const ordered = (item) => /^ *\d/.test(item);
const closes = (line, fence) => line.trim().startsWith(FENCE.exec(fence)[1]) && /^[`~\s]+$/.test(line);

/** Whether the line at `at` still belongs to the block of that kind that began at `start`. */
function goesOn(kind, lines, start, at) {
  const next = kindOf(lines[at]);
  if (kind === "code") return at === start + 1 || !closes(lines[at - 1], lines[start]);
  if (kind !== "list") return next === kind && kind !== "heading" && kind !== "rule";
  if (next === "blank" || indent(lines[at]) > 1) return true;
  if (next === "text") return lines[at - 1].trim() !== "";
  return next === "list" && ordered(lines[at]) === ordered(lines[start]);
}

/** Lines of Markdown as blocks: {kind, lines}. */
function splitBlocks(lines) {
  const blocks = [];
  for (let start = 0, at; start < lines.length; start = at) {
    const kind = kindOf(lines[start]);
    at = start + 1;
    while (at < lines.length && goesOn(kind, lines, start, at)) at++;
    if (kind !== "blank") blocks.push({ kind, lines: lines.slice(start, at) });
  }
  return blocks;
}

/** A block as an element; `citation(n)` gives what stands for a citation of source n. */
function blockNode({ kind, lines }, citation, depth = 0) {
  const text = lines.join("\n");
  const nodes = (inner) => splitBlocks(inner).map((block) => blockNode(block, citation, depth + 1));
  if (depth > DEEPEST_NESTING) return element("p", {}, text);
  if (kind === "code") {
    const end = lines.length > 1 && closes(lines.at(-1), lines[0]) ? -1 : undefined;
    return element("pre", { tabindex: 0 }, element("code", {}, lines.slice(1, end).join("\n")));
  }
  if (kind === "heading") {
    const [, marks, title] = HEADING.exec(text);
    return element(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(title.replace(/ #+ *$/, ""), citation));
  }
  if (kind === "rule") return element("hr");
  if (kind === "quote") return element("blockquote", {}, ...nodes(lines.map((line) => line.replace(QUOTE, ""))));
  if (kind === "list") return listNode(lines, nodes);
  return element("p", {}, ...inline(text, citation));
}

function listNode(lines, nodes) {
  const list = ordered(lines[0]) ? element("ol", { start: parseInt(lines[0].trim()) }) : element("ul");
  const items = [];
  let width = 0; // of an item's marker: by as much its later lines are indented
  for (const line of lines) {
    const marker = indent(line) < indent(lines[0]) + 2 && ITEM.exec(line)?.[0];
    if (marker) items.push([line.slice((width = marker.length))]);
    else items.at(-1).push(line.slice(Math.min(indent(line), width)));
  }
  for (const [first, ...others] of items.map(nodes)) {
    const short = first?.tagName === "P" ? first.childNodes : [first ?? ""];
    list.append(element("li", {}, ...short, ...others));
  }
  return list;
}

const INLINE = new RegExp(
  [
    /\\(?<escaped>[!-/:-@[-`{-~])/,
    /(?<ticks>`+)(?<code>.*?[^`])\k<ticks>(?!`)/,
    /\*\*(?<bold>\S.*?)\*\*(?!\*)/,
    /\*(?<italic>[^\s*](?:[^*]*[^\s*])?)\*/,
    /(?<!\w)__(?<bold_>\S.*?)__(?!\w)/,
    /(?<!\w)_(?<italic_>[^\s_](?:[^_]*[^\s_])?)_(?!\w)/,
    /\[(?<label>[^\][]*)\]\((?<url>[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?: +"[^"]*")?\)/,
    /\[(?<cited>\d{1,3})\]/,
    /(?<bare>https?:\/\/[^\s<>()[\]"'`*]*[^\s<>()[\]"'`*.,;:!?_])/,
  ].map((part) => part.source).join("|"),
  "gs",
);

/** Text with Markdown's marks, as nodes and strings. */
function inline(text, citation) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const { escaped, code, bold, bold_, italic, italic_, label, url, cited, bare } = found.groups;
    nodes.push(text.slice(end, found.index));
    end = found.index + found[0].length;
    if (escaped) nodes.push(escaped);
    else if (code) nodes.push(element("code", {}, code.trim()));
    else if (bold ?? bold_) nodes.push(element("strong", {}, ...inline(bold ?? bold_, citation)));
    else if (italic ?? italic_) nodes.push(element("em", {}, ...inline(italic ?? italic_, citation)));
    else if (cited) nodes.push(citation(Number(cited)));
    else if (bare) nodes.push(link(bare, bare));
    else nodes.push(isWeb(url) ? link(url, label || url) : found[0]);
  }
  return [...nodes, text.slice(end)];
}

// ---------------------------------------------------------------------------------- this browser's runs

/** @returns {{id: string, query: string, time: number}[]}  the newest first */
const history = () => JSON.parse(localStorage.getItem("runs") ?? "[]");

function keep(runs) {
  localStorage.setItem("runs", JSON.stringify(runs.slice(0, HISTORY_LENGTH)));
  showHistory();
}

function showHistory() {
  $("runs").replaceChildren(...history().map(({ id, query, time }) => {
    const [date, label] = [new Date(time), `Delete “${query}”`];
    const when = date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const stamp = element("time", { datetime: date.toISOString() }, when);
    const remove = element("button", { type: "button", "aria-label": label, title: "Delete" }, "×");
    remove.addEventListener("click", () => {
      keep(history().filter((other) => other.id !== id));
      ($("runs").querySelector("a") ?? $("query")).focus();
    });
    return element("li", {}, element("a", { href: `#run=${encodeURIComponent(id)}` }, query, stamp), remove);
  }));
}

// ----------------------------------------------------------------------------------------- what is done

/** Ask, with one key for all tries: a try whose reply got lost does not start a second run. */
async function ask(query) {
  // not crypto.randomUUID(), which browsers have under HTTPS alone
  const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16)).join("-");
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  await attempt(async () => {
    $("send").disabled = true;
    const body = JSON.stringify({ query, background: true });
    const { id } = await call("", { method: "POST", headers, body }).finally(() => ($("send").disabled = false));
    keep([{ id, query, time: Date.now() }, ...history().filter((run) => run.id !== id)]);
    $("query").value = "";
    location.hash = `run=${encodeURIComponent(id)}`;
  });
}

/** Ask for the run's end; the run's last event tells that it has come. */
async function cancel() {
  $("cancel").disabled = true;
  const stop = () => call(`/${encodeURIComponent(open.id)}`, { method: "DELETE" });
  await attempt(() => stop().catch((error) => { $("cancel").disabled = false; throw error; }));
}

/** Copy the answer's Markdown with the list of its sources. */
async function copy() {
  const sources = [...open.sources.values()].map(({ n, title, url }) => `${n}. [${title}](${url})`);
  const text = [answerOf(open).trim(), ...(sources.length ? ["## Sources", sources.join("\n")] : [])].join("\n\n");
  const clipboard = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("not under HTTPS"));
  const copied = await clipboard.then(() => true, () => copyBySelection(text));
  $("copied").textContent = copied ? "Copied" : "The browser does not allow to copy";
  setTimeout(() => ($("copied").textContent = ""), 3000);
}

/** The old way, which needs no permission. */
function copyBySelection(text) {
  const area = element("textarea", { class: "off-screen", readonly: "" }, text);
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  $("copy").focus();
  return copied;
}

/** @type {Run | undefined} */
let open;

/** Show a run from its first event on. */
async function openRun(id) {
  const run = { id, lastId: "", retry: 500, pieces: [], drawn: [], steps: new Map(), sources: new Map() };
  run.left = new AbortController();
  open = run;
  for (const list of ["question", "answer", "steps", "sources"]) $(list).replaceChildren();
  $("answer").ariaBusy = "true";
  $("cancel").hidden = $("cancel").disabled = false;
  $("copy").hidden = true;
  say("working", "Thinking …");
  $("question").focus();
  try {
    await follow(run);
  } catch (error) {
    const asked = history().find((known) => known.id === id)?.query;
    finish(run, "failed", "This run cannot be shown.");
    throw error
  }
}
