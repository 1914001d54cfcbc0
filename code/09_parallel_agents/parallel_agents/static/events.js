/** Server-sent events over fetch, which can send the header with the token that an EventSource cannot. */

const IDLE_TIMEOUT_MS = 45_000; // the server pings every 15 s, so a connection that is silent for longer is dead

/**
 * Parse a stream (https://html.spec.whatwg.org/multipage/server-sent-events.html) until it ends, breaks, or is
 * silent for too long. `state.lastId` is the id to resume after.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {{lastId: string}} state
 */
export async function* readEvents(body, state) {
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
      if (line) continue;
      state.lastId = id;
      if (data.length) yield { id, type: type || "message", data: data.join("\n") };
      [type, data] = ["", []];
    }
  }
}
