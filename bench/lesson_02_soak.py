"""Does lesson 02 stay well under faults? `python bench/lesson_02_soak.py`, about five minutes.

200,000 requests in all, to four servers whose models fail one call in ten, each in a way of its own.
"""

import json
import subprocess
import tempfile
from collections import Counter

from bench.lesson_02_bounds import Served, serve
from bench.load import CONNECTIONS, offline_model, questions, wrk_version
from bench.records import measured, save
from course.processes import Processes

REQUESTS, TURN = 200_000, 5  # in all; seconds that each server is loaded in turn
FAULTS = {"429": "429", "500": "500", "hang": "hang", "cut": "cut&after=3"}
DOCUMENTED = {"200", "502", "503", "504"}

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
done = function()
  for status, count in pairs(all:get("seen")) do io.write("SEEN ", status, " ", count, "\\n") end
end
"""


def soak(server: Served, script: str) -> Counter[str]:
    """Load a server for one turn; how often each status, and each last event of a stream, was seen."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{TURN}s", "--timeout", "10s", "-s", script, server.url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = [line.split() for line in printed.splitlines() if line.startswith("SEEN")]
    return Counter({status: int(count) for _, status, count in words})


def main() -> None:
    wrk = wrk_version()
    bodies = ", ".join(f"[==[{json.dumps({'query': q, 'max_tokens': 30})}]==]" for q in questions(2_000))
    seen: Counter[str] = Counter()
    early: list[float] = []
    with Processes() as processes, tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.replace("%s", bodies))
        script.flush()
        env = {"OPENAI_BASE_URL": f"{offline_model(processes)}/v1", "OPENAI_API_KEY": "offline"}
        env |= {"RATE_LIMIT_RPM": "100000000", "TIMEOUT_SECONDS": "2"}
        env |= {"CACHE_MAX_ENTRIES": "1000", "CACHE_TTL_SECONDS": "60", "LOG_LEVEL": "ERROR"}
        servers = [
            serve(
                processes,
                "02_production_api:app",
                "code",
                **env,
                MODEL_NAME=f"offline?fault={fault}&every=10",
            )
            for fault in FAULTS.values()
        ]
        while seen.total() < REQUESTS:
            for server in servers:
                seen += soak(server, script.name)
            early = early or [server.megabytes() for server in servers]
            print(f"{seen.total():,} requests: {dict(seen)}", flush=True)
        late = [server.megabytes() for server in servers]
    undocumented = sum(
        count for status, count in seen.items() if status not in DOCUMENTED | {"done", "error"}
    )
    how = (
        f"wrk with {CONNECTIONS} connections, 2,000 questions at random, one request in fifty streamed, a "
        "cache of 1,000 entries, a deadline of 2 s; each model fails one call in ten"
    )
    save(
        "lesson_02_soak",
        {
            "title": "Memory of lesson 02 under faults",
            "kind": "bars",
            "alt": "Memory of four servers early and late in the soak, by the fault of their model.",
            "measured": measured(how, "fastapi", "uvicorn", "langchain-openai", wrk=wrk),
            "values": {
                "requests": seen.total(),
                "undocumented": undocumented,
                **{f"seen_{s}": n for s, n in seen.items()},
            },
            "unit": "MB",
            "groups": [f"fault: {name}" for name in FAULTS],
            "series": [
                {"name": "after the first turn", "values": early},
                {"name": "at the end", "values": late},
            ],
        },
    )


if __name__ == "__main__":
    main()
