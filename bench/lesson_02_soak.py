"""Does lesson 02 keep working while its model fails? `python bench/lesson_02_soak.py`, about eight minutes.

It sends 200,000 requests to four servers whose models fail one call in ten, each with another fault. With a
number as argument it sends that many, and saves no record.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter

from bench.lesson_02_bounds import LESSON, Served, serve
from bench.load import CONNECTIONS, model_settings, questions, wrk_version
from bench.records import measured, save
from course.processes import Processes

REQUESTS, TURN = 200_000, 5  # in all; seconds of load for each server in turn
QUESTIONS, CACHE, DEADLINE = 1_250, 1_000, 5  # more questions than cache entries, so that entries are evicted
FAULTS = {"429": "429", "500": "500", "hang": "hang", "cut": "cut&after=3"}
# The statuses, and the last events of streams, that the API documents. wrk counts a request without a
# response as an error.
DOCUMENTED = {"200", "502", "503", "504", "done", "error"}

SCRIPT = """
local bodies = {%s}
seen = {}
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  local path = math.random(50) == 1 and "/v1/stream" or "/v1/invoke"
  return wrk.format(nil, path, nil, bodies[math.random(#bodies)])
end
response = function(status, headers, body)
  if headers["content-type"]:find("event%-stream") then
    status = body:find("event: done") and "done" or body:find("event: error") and "error" or "cut"
  end
  seen[status] = (seen[status] or 0) + 1
end
local all
setup = function(thread) all = thread end
done = function(summary)
  local e = summary.errors
  io.write("SEEN unanswered ", e.connect + e.read + e.write + e.timeout, "\\n")
  for status, count in pairs(all:get("seen")) do io.write("SEEN ", status, " ", count, "\\n") end
end
"""


def soak(server: Served, script: str) -> Counter[str]:
    """Load a server for one turn; returns the count of each status, or last event of a stream."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{TURN}s", "--timeout", "10s", "-s", script, server.url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = [line.split() for line in printed.splitlines() if line.startswith("SEEN")]
    return +Counter({status: int(count) for _, status, count in words})


def main() -> None:
    wrk, requests = wrk_version(), int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    bodies = ", ".join(f"[==[{json.dumps({'query': q, 'max_tokens': 15})}]==]" for q in questions(QUESTIONS))
    seen: Counter[str] = Counter()
    memory: list[list[float]] = []  # of the servers, after each turn
    with Processes() as processes, tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.replace("%s", bodies))
        script.flush()
        env = model_settings(processes) | {"RATE_LIMIT_RPM": "100000000", "TIMEOUT_SECONDS": str(DEADLINE)}
        env |= {"CACHE_MAX_ENTRIES": str(CACHE), "CACHE_TTL_SECONDS": "60", "LOG_LEVEL": "ERROR"}
        models = [{"MODEL_NAME": f"offline?fault={fault}&every=10"} for fault in FAULTS.values()]
        servers = [serve(processes, LESSON, **(env | model)) for model in models]
        while seen.total() < requests:
            for server in servers:
                seen += soak(server, script.name)
            memory.append([server.megabytes() for server in servers])
            print(f"{seen.total():,} requests: {dict(seen)}, {memory[-1]} MB", flush=True)
    if requests < REQUESTS:
        return
    undocumented = sum(count for told, count in seen.items() if told not in DOCUMENTED)
    how = (
        f"wrk with {CONNECTIONS} connections, {QUESTIONS:,} questions at random, one request in fifty "
        f"streamed, a cache of {CACHE:,}, a deadline of {DEADLINE} s; each model fails one call in ten"
    )
    save(
        "lesson_02_soak",
        {
            "title": "Memory of lesson 02 under faults",
            "kind": "bars",
            "alt": "Memory of four servers early, half-way and at the end, by the fault of their model.",
            "measured": measured(how, "fastapi", "uvicorn", "langchain-openai", wrk=wrk),
            "values": {
                "requests": seen.total(),
                "undocumented": undocumented,
                **{f"seen_{told}": seen[told] for told in sorted(DOCUMENTED | set(seen))},
            },
            "unit": "MB",
            "groups": [f"fault: {name}" for name in FAULTS],
            "series": [
                {"name": "after the first turn", "values": memory[0]},
                {"name": "half-way", "values": memory[len(memory) // 2]},
                {"name": "at the end", "values": memory[-1]},
            ],
        },
    )


if __name__ == "__main__":
    main()
