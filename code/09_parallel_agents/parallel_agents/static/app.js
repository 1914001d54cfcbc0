/**
 * The page of lesson 09: start a run, follow its event stream, and show each variation in a column of its own.
 * Text of repositories, agents and models becomes text nodes, never HTML.
 *
 * @typedef {{status: number, title: string, detail: string, request_id?: string, errors?: object[]}} Problem
 * @typedef {{n: number, strategy: string, seed: number, state: string, seconds: number | null}} Variation
 */

import { readEvents } from "./events.js";

const TOKEN_STORAGE = "parallel-agents.token";
const MAX_BACKOFF_MS = 10_000;
const MAX_LINES = 400; // of a column; older ones are in the log file
const TRANSIENT_STATUSES = [0, 429, 502, 503, 504]; // worth a retry; 0: no connection
const PHRASES = { timed_out: "timed out", out_of_memory: "out of memory", over_quota: "over quota" };
const UNFINISHED = ["queued", "running"];

const $ = (id) => document.getElementById(id);
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const phraseOf = (state) => PHRASES[state] ?? state;

/** Create an element with attributes and children; strings become text nodes. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function button(text, action, attributes = {}) {
  const node = element("button", { type: "button", ...attributes }, text);
  node.addEventListener("click", action);
  return node;
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
  throw new ApiError({ status: 0, title: "The server cannot be reached", detail: "Is it running?" });
}

/** Call the API and return the response. Throws ApiError. */
async function fetchApi(path, options = {}) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem(TOKEN_STORAGE);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  if (options.body) headers.set("Content-Type", "application/json");
  const response = await fetch(`api/v1${path}`, { ...options, headers }).catch(throwUnreachable);
  if (response.ok) return response;
  const isProblem = (response.headers.get("Content-Type") ?? "").startsWith("application/problem+json");
  const unknown = { title: `HTTP ${response.status}`, detail: "A proxy answered in place of the API." };
  const problem = isProblem ? await response.json().catch(throwUnreachable) : unknown;
  throw new ApiError({ ...problem, status: response.status }, Number(response.headers.get("Retry-After")) || 0);
}

const callApi = async (path, options) => (await fetchApi(path, options)).json();
const post = (path, value) => callApi(path, { method: "POST", body: value && JSON.stringify(value) });

/** @param {Problem} problem */
function showProblem({ title, detail, request_id, errors = [] }) {
  $("problem-title").textContent = title;
  $("problem-detail").textContent = [detail, ...errors.map((each) => Object.values(each).join(": "))].join(" ");
  $("problem-request").textContent = request_id ? `Request id: ${request_id}` : "";
  $("problem").hidden = false;
}

/** Run a function and show its ApiError; ask for a password when the token is missing or has expired. */
async function attempt(work) {
  $("problem").hidden = true;
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.problem.status === 401 && sessionStorage.getItem(TOKEN_STORAGE)) {
      sessionStorage.removeItem(TOKEN_STORAGE);
      showView("sign-in");
    }
    showProblem(error.problem);
  }
}

// ---- A run

/** A variation's column. Lines are added once a frame, however many events arrive. */
class Column {
  /** @param {Variation} variation */
  constructor(runId, variation) {
    Object.assign(this, { runId, variation, pending: [], startedAt: null });
    const id = `variation-${variation.n}`;
    this.badge = element("span", { class: "badge" });
    this.facts = element("p", { class: "facts small" });
    this.lines = element("div", { class: "lines", tabindex: 0, role: "log", "aria-live": "off", "aria-labelledby": id });
    this.patch = button("Patch", () => showPatch(runId, variation.n), { hidden: "", "aria-label": `Patch of variation ${variation.n}` });
    const log = button("Log", () => attempt(() => download(`/runs/${runId}/variations/${variation.n}/log`, `variation-${variation.n}.log`)), {
      "aria-label": `Download the log of variation ${variation.n}`,
    });
    const heading = element("h3", { id }, `${variation.n} · ${variation.strategy}`);
    const head = element("div", { class: "row" }, heading, this.badge);
    const foot = element("div", { class: "row" }, log, this.patch);
    this.node = element("article", { class: "column", "aria-labelledby": id }, head, this.facts, this.lines, foot);
    this.renderFacts();
  }

  update(type, data) {
    const { variation: _, name, ...rest } = data;
    if (type === "state") {
      Object.assign(this.variation, rest, { state: name });
      if (name === "running") this.startedAt = (data.at ?? Date.now() / 1000) * 1000;
    } else if (type === "usage") Object.assign(this.variation, rest);
    else if (type === "tests") Object.assign(this.variation, { tests_passed: data.passed, tests_failed: data.failed });
    const line = renderLine(type, data);
    if (line) this.pending.push(line);
    this.frame ??= requestAnimationFrame(() => this.flush());
  }

  flush() {
    this.frame = undefined;
    const atEnd = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < 40;
    this.lines.append(...this.pending.splice(0).slice(-MAX_LINES));
    while (this.lines.children.length > MAX_LINES) this.lines.firstChild.remove();
    if (atEnd) this.lines.scrollTop = this.lines.scrollHeight;
    this.renderFacts();
  }

  renderFacts() {
    const { state, seconds, prompt_tokens = 0, completion_tokens = 0, tests_passed, tests_failed } = this.variation;
    const running = state === "running" && this.startedAt ? (Date.now() - this.startedAt) / 1000 : null;
    const facts = [`seed ${this.variation.seed}`, `${plural(prompt_tokens + completion_tokens, "token")}`];
    if (seconds ?? running) facts.unshift(`${(seconds ?? running).toFixed(seconds ? 1 : 0)} s`);
    if (tests_passed !== null && tests_passed !== undefined) facts.push(`${tests_passed} pass, ${tests_failed} fail`);
    this.facts.textContent = facts.join(" · ");
    this.badge.textContent = phraseOf(state);
    this.badge.dataset.state = state;
    this.patch.hidden = UNFINISHED.includes(state);
  }
}

/** A text whose parts in backticks are code. */
const withCode = (text) => text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));

/** One event as a line of the log; null for one that only changes facts. */
function renderLine(type, data) {
  const item = (...children) => element("div", { class: type }, ...children);
  const code = (text) => element("code", {}, String(text));
  const place = `${data.file}, line ${data.line}`;
  if (type === "plan" || type === "say") return item(String(data.text));
  if (type === "log") return element("div", { class: `log ${data.stream}` }, element("pre", {}, String(data.text)));
  if (type === "command") return item(code(`$ ${data.command}`), ` exit ${data.exit_code}, ${data.seconds} s`);
  if (type === "tests") return item(`${plural(Number(data.passed), "test")} pass, ${data.failed} fail`);
  if (type === "model") return item(...withCode(String(data.reason)));
  if (type === "result") return element("div", { class: `result ${data.status}` }, `${data.status}: ${data.summary}`);
  if (type !== "edit") return null;
  const outcome = element("span", { class: data.helps ? "good" : "small" }, data.helps ? "Helps. " : "Does not help. ");
  const change = element("pre", {}, element("del", {}, String(data.before).trim()), "\n", element("ins", {}, String(data.after).trim()));
  return item(outcome, place, change);
}

/** Show a run's status. Screen readers announce each change, so it is a whole phrase. */
function setStatus(state, phrase) {
  $("state").dataset.state = state;
  if ($("state").textContent !== phrase) $("state").textContent = phrase;
}

let following = new AbortController(); // aborted when the reader leaves the run

async function showRun(id) {
  const signal = following.signal;
  const run = await callApi(`/runs/${id}`, { signal });
  if (signal.aborted) return;
  $("title").textContent = run.prompt;
  $("of").textContent = [run.repository, run.commit?.slice(0, 12)].filter(Boolean).join(" at ");
  document.title = `${run.prompt.slice(0, 80)} · Parallel agents`;
  // Events replay from the first one, so that the columns begin as they did.
  const columns = new Map(run.variations.map((each) => [each.n, new Column(id, { ...each, state: "queued" })]));
  $("columns").replaceChildren(...Array.from(columns.values(), (column) => column.node));
  $("cancel").onclick = () => attempt(() => post(`/runs/${id}/cancel`));
  $("cancel").hidden = false;
  setStatus("working", "Waiting for the first events …");
  const clock = setInterval(() => columns.forEach((column) => column.renderFacts()), 1000);
  signal.addEventListener("abort", () => clearInterval(clock));
  const ended = await followRun(id, columns, signal);
  clearInterval(clock);
  if (signal.aborted) return;
  $("cancel").hidden = true;
  await showResults(id, columns, signal);
  const passed = [...columns.values()].filter((column) => column.variation.state === "passed").length;
  if (ended) setStatus(ended, `${ended === "done" ? "Finished" : `The run is ${ended}`}: ${passed} of ${plural(columns.size, "variation")} passed.`);
}

/** Handle a run's events until the last one; reconnect when the connection is lost. Return how the run ended. */
async function followRun(id, columns, signal) {
  const state = { lastId: "" };
  for (let attempts = 0; !signal.aborted; attempts++) {
    let retryAfter = 0;
    try {
      const headers = state.lastId ? { "Last-Event-ID": state.lastId } : {};
      const response = await fetchApi(`/runs/${id}/stream`, { headers, signal });
      if (response.status === 204) return (await callApi(`/runs/${id}`, { signal })).state;
      if (attempts) setStatus("working", "Connected again.");
      for await (const { type, data } of readEvents(response.body, state)) {
        if (signal.aborted) return null;
        attempts = 0;
        const ended = handleEvent(columns, type, JSON.parse(data));
        if (ended) return ended;
      }
    } catch (error) {
      if (signal.aborted) return null;
      if (!TRANSIENT_STATUSES.includes(error.problem?.status)) throw error;
      retryAfter = error.retryAfter * 1000;
    }
    if (signal.aborted) return null;
    setStatus("lost", "Connection lost, trying again …");
    const backoff = Math.min(MAX_BACKOFF_MS, 500 * 2 ** attempts) * (0.5 + Math.random() / 2);
    await new Promise((resolve) => setTimeout(resolve, Math.max(retryAfter, backoff)));
  }
  return null;
}

/** Update the page for one event. Return how the run ended, at the last event. */
function handleEvent(columns, type, data) {
  const column = columns.get(data.variation);
  column?.update(type, data);
  if (type === "state" && column) {
    const states = Array.from(columns.values(), (each) => each.variation.state);
    const left = states.filter((state) => UNFINISHED.includes(state)).length;
    const phrase = `Variation ${data.variation} ${data.name === "running" ? "runs" : phraseOf(data.name)}.`;
    setStatus("working", left ? `${phrase} ${plural(left, "variation")} not finished.` : phrase);
  }
  return type === "done" ? data.reason : null;
}

async function showResults(id, columns, signal) {
  const { rows } = await callApi(`/runs/${id}/results`, { signal });
  const cells = (row) => [
    element("span", { class: "badge", "data-state": row.state }, phraseOf(row.state)),
    row.tests_passed ?? "–",
    row.tests_failed ?? "–",
    `+${row.lines_added} −${row.lines_removed}`,
    (row.prompt_tokens + row.completion_tokens).toLocaleString("en"),
    row.seconds?.toFixed(1) ?? "–",
    row.summary,
    button("Show", () => showPatch(id, row.n), { "aria-label": `Show the patch of variation ${row.n}` }),
  ];
  const tableRow = (row) => {
    const heading = element("th", { scope: "row" }, `${row.n} · ${row.strategy}`);
    return element("tr", {}, heading, ...cells(row).map((cell) => element("td", {}, cell instanceof Node ? cell : String(cell))));
  };
  $("results").replaceChildren(...rows.map(tableRow));
  $("results-part").hidden = false;
  for (const row of rows) {
    const column = columns.get(row.n);
    Object.assign(column.variation, row);
    column.flush();
  }
}

// ---- Patches and logs

function showPatch(id, n) {
  return attempt(async () => {
    const patch = await (await fetchApi(`/runs/${id}/variations/${n}/patch`)).text();
    $("patch-title").textContent = `Patch of variation ${n}`;
    const save = button("Download", () => attempt(() => download(`/runs/${id}/variations/${n}/patch`, `variation-${n}.patch`)));
    $("patch").replaceChildren(...(patch.trim() ? renderPatch(patch) : [element("p", {}, "It changed nothing.")]), save);
    $("patch-part").hidden = false;
    $("patch-title").focus();
  });
}

/** A patch as one table for each file, with the numbers of old and new lines. */
function renderPatch(patch) {
  const parts = [];
  let [body, oldLine, newLine, inHunk] = [null, 0, 0, false];
  for (const line of patch.replace(/\n$/, "").split("\n")) {
    const hunk = /^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@/.exec(line);
    if (line.startsWith("diff --git ")) {
      inHunk = false;
      const name = line.replace(/^diff --git .* b\//, "");
      body = element("tbody");
      const table = element("table", { class: "diff" }, element("caption", {}, name), body);
      parts.push(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Changes of ${name}` }, table));
    } else if (hunk) {
      inHunk = true;
      [oldLine, newLine] = [Number(hunk[1]), Number(hunk[2])];
      body?.append(element("tr", { class: "hunk" }, element("td", { colspan: 3 }, line)));
    } else if (inHunk && body) {
      const kind = { "+": "added", "-": "removed", "\\": "note" }[line[0]] ?? "same";
      const numbers = [kind === "removed" || kind === "same" ? oldLine++ : "", kind === "added" || kind === "same" ? newLine++ : ""];
      const cells = numbers.map((number) => element("td", { class: "number" }, String(number)));
      body.append(element("tr", { class: kind }, ...cells, element("td", {}, line)));
    }
  }
  return parts;
}

async function download(path, name) {
  const url = URL.createObjectURL(await (await fetchApi(path)).blob());
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

// ---- Views

function showView(view) {
  for (const node of document.querySelectorAll("[data-view]")) node.hidden = node.dataset.view !== view;
  $("sign-out").hidden = view === "sign-in";
}

async function showRuns(cursor = "") {
  const signal = following.signal;
  const { runs, next_cursor: next } = await callApi(`/runs?limit=20${cursor && `&cursor=${cursor}`}`, { signal });
  if (signal.aborted) return;
  if (!cursor) $("runs").replaceChildren();
  for (const run of runs) {
    const time = element("time", {}, new Date(run.created_at * 1000).toLocaleString("en"));
    const link = element("a", { href: `#run=${run.id}` }, element("span", {}, run.prompt), time);
    $("runs").append(element("li", {}, link, element("span", { class: "badge", "data-state": run.state }, run.state)));
  }
  $("history").hidden = $("runs").children.length === 0;
  $("more").hidden = !next;
  $("more").onclick = () => attempt(() => showRuns(next));
}

/** Show what the address says. */
async function navigate() {
  following.abort();
  following = new AbortController();
  const run = /^#run=([0-9a-f]+)$/.exec(location.hash)?.[1];
  const view = sessionStorage.getItem(TOKEN_STORAGE) ? (run ? "run" : "home") : "sign-in";
  showView(view);
  for (const id of ["results-part", "patch-part"]) $(id).hidden = true;
  $("columns").replaceChildren();
  document.title = "Parallel agents";
  if (view === "sign-in") $("username").focus();
  if (view === "home") $("repository").focus();
  if (view === "home") $("history").hidden = true;
  if (view === "home") await attempt(showRuns);
  if (view === "run") $("title").focus();
  if (view === "run") await attempt(() => showRun(run));
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const credentials = { username: $("username").value, password: $("password").value };
  return attempt(async () => {
    if (event.submitter?.value === "register") await post("/auth/register", credentials);
    sessionStorage.setItem(TOKEN_STORAGE, (await post("/auth/login", credentials)).access_token);
    $("password").value = "";
    await navigate();
  });
});

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  $("send").disabled = true;
  return attempt(async () => {
    const numbers = { variations: $("variations").valueAsNumber, seed: $("seed").valueAsNumber };
    const run = await post("/runs", { repository: $("repository").value, prompt: $("prompt").value, ...numbers });
    location.hash = `run=${run.id}`;
  }).finally(() => ($("send").disabled = false));
});

$("close-patch").addEventListener("click", () => {
  $("patch-part").hidden = true;
  $("results-title").scrollIntoView();
});
$("sign-out").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN_STORAGE);
  navigate();
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
addEventListener("hashchange", navigate);
navigate();
