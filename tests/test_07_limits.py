"""Lesson 07: scripts that fail, hang, flood or want too much are ended, and leave nothing behind."""

import json
import os
import re
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.connections import connect
from support.container_tools import (
    call,
    cancelled_calls,
    ends,
    own_address,
    printed,
    qdrant,
    renamed_sleep,
    result,
    runs,
    unique,
)
from support.problems import assert_problem
from support.servers import Server, StartServer

from course.engines import dagger as dagger_engine
from course.polling import until

pytestmark = [pytest.mark.dagger, pytest.mark.timeout(300)]
FORTY_PROCESSES = "import os, time\nfor _ in range(40):\n if os.fork() == 0: time.sleep(60)"
sees_containers = pytest.mark.skipif(sys.platform != "linux", reason="containers run in a virtual machine")


@pytest.fixture(scope="session")
def start(container_tools: StartServer) -> StartServer:
    return container_tools


def test_a_failing_script_gives_its_exit_code_and_the_end_of_its_stderr(server: Server) -> None:
    problem = assert_problem(call(server, "run_python", code="import sys; sys.exit(3)"), 502)
    assert problem["exit_code"] == 3, (
        f"The script exits with 3, and the answer gives exit code {problem['exit_code']}."
    )
    problem = assert_problem(
        call(server, "run_python", code="import sys\nsys.stderr.write('x' * 9999)\n1 / 0"), 502
    )
    stderr = problem["stderr"]
    assert stderr.strip().endswith("ZeroDivisionError: division by zero"), (
        f"The answer's stderr does not end with the ZeroDivisionError: {stderr[-200:]!r}."
    )
    assert len(stderr) <= 2_000, f"The answer has {len(stderr):,} characters of stderr, more than 2,000."


@sees_containers
def test_a_hanging_script_is_ended(server: Server) -> None:
    word = unique()
    problem = assert_problem(call(server, "run_python", code=renamed_sleep(word)), 504)
    assert problem["detail"] == "The script ran out of time.", (
        "The script hangs, and the time limit does not end it."
    )
    assert problem["exit_code"] == 124, (
        f"The script ran out of time, and the answer gives exit code {problem['exit_code']}, not 124."
    )
    assert ends(word), "The call has ended, and its container still runs."


def test_a_script_that_keeps_writing_is_ended(server: Server) -> None:
    code = f"import os, time # {unique()}\nwhile True: os.write(2, b'.'); time.sleep(0.1)"
    problem = assert_problem(call(server, "run_python", code=code), 504)
    assert problem["detail"] == "The script ran out of time.", "A script that keeps writing runs for ever."


@sees_containers
def test_processes_that_a_script_leaves_end_with_it(server: Server) -> None:
    word = unique()
    code = (
        f"import os, sys\nif os.fork() == 0:\n os.setsid(); os.close(1); os.close(2)\n {renamed_sleep(word)}"
    )
    printed(server, f"{code}\nprint('the parent')")
    assert ends(word), "A process that the script started outlives its container."


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("while True: print('x' * 10**6)", 1, "File too large"),
        ("print('x' * 1_000_000)", 125, "printed too much"),
        ("x = b'x' * 10**9", 1, "MemoryError"),
        (FORTY_PROCESSES, 1, "Resource temporarily unavailable"),
        ("open('/tmp/x', 'wb').write(b'x' * 10**8)", 1, "File too large"),
        ("import os; os.kill(os.getpid(), 9)", 137, ""),
    ],
    ids=["flood", "too-much", "memory", "processes", "file", "killed"],
)
def test_limits(server: Server, code: str, exit_code: int, said: str) -> None:
    response = call(server, "run_python", code=code)
    assert response.status_code != 200, "The script went over a limit, and nothing stopped it."
    problem = assert_problem(response, 502)
    assert problem["exit_code"] == exit_code, (
        f"The script ended with exit code {problem['exit_code']}, not {exit_code}."
    )
    assert said in problem["stderr"], f"The end of stderr does not say {said!r}: {problem['stderr']!r}"


def test_the_server_serves_on_after_all_that(server: Server) -> None:
    said = printed(server, f"print('{unique()}')")
    assert said.startswith("w"), f"The code prints a word that starts with w, and the tool returns {said!r}."


def test_a_script_has_no_root_and_no_capabilities(server: Server) -> None:
    code = "import os; print(os.getuid(), open('/proc/self/status').read())"
    said = printed(server, code)
    assert int(said.split()[0]) >= 10_000, "The script runs as root, or as a user that exists."
    assert re.search(r"CapEff:\s+0+\n", said), "The script has capabilities."
    assert re.search(r"NoNewPrivs:\s+1\n", said), "A set-user-ID program could make the script root."
    for path in ("/tool/script.py", "/etc/passwd"):
        response = call(server, "run_python", code=f"open('{path}', 'a')")
        assert response.status_code != 200, f"The script can write to {path}."
        exit_code = assert_problem(response, 502)["exit_code"]
        assert exit_code == 1, f"A script that may not write to {path} ended with exit code {exit_code}."


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_PACKET", "AF_NETLINK", "AF_VSOCK"])
def test_a_script_that_needs_no_network_has_none(server: Server, family: str) -> None:
    code = f"import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM)"
    response = call(server, "run_python", code=code)
    assert response.status_code != 200, "The script got a socket: it can send out what it finds."
    stderr = assert_problem(response, 502)["stderr"]
    assert "Permission denied" in stderr, f"The kernel did not refuse the script a socket: {stderr!r}"


def test_code_cannot_reach_a_server_of_the_host(server: Server) -> None:
    with socket.socket() as listening:
        listening.bind(("0.0.0.0", 0))  # noqa: S104  # containers must reach it
        listening.listen()
        listening.settimeout(0.5)
        to = (own_address(), listening.getsockname()[1])
        response = call(server, "run_python", code=f"import socket; socket.create_connection({to}, 5)")
        with suppress(TimeoutError):
            listening.accept()
            pytest.fail("A script in a container has connected to a server of the host.")
    assert response.status_code == 502, (
        f"The script cannot connect, and the answer has status {response.status_code}, not 502."
    )


def test_unix_sockets_work_so_that_asyncio_does(server: Server) -> None:
    said = printed(server, "import asyncio; asyncio.run(asyncio.sleep(0)); print('ran')")
    assert said == "ran\n", f"The script uses asyncio and prints ran, and the tool returns {said!r}."


@sees_containers
def test_a_client_that_leaves_cancels_its_call_down_to_the_container(server: Server) -> None:
    word = unique()
    before = cancelled_calls(server)
    body = json.dumps({"code": renamed_sleep(word)}).encode()
    head = f"POST /tools/run_python HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    with connect(server, 60) as client:
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        assert until(lambda: runs(word), 60), "The script never started."
    assert until(lambda: cancelled_calls(server) > before, 20), (
        "The client has left, and the server does not count its call as cancelled."
    )
    assert ends(word), "The client has left, and its script runs on."


# --- The cache ---


def test_the_same_input_is_answered_from_the_cache_and_another_is_not(server: Server) -> None:
    code = f"import time; print(time.time_ns()) # {unique()}"
    assert printed(server, code) == printed(server, code), "The same input ran twice."
    assert printed(server, code) != printed(server, f"{code} again"), "Another input got the same answer."


def test_a_failure_is_not_kept(server: Server) -> None:
    code = f"import time; raise SystemExit(time.time_ns() % 200 + 1) # {unique()}"
    codes = {call(server, "run_python", code=code).json()["exit_code"] for _ in range(4)}
    assert len(codes) > 1, "The failure of the first call is the answer to all later ones."


def test_another_secret_is_another_call(server: Server) -> None:
    body = unique()
    first = result(server, "sign", body=body, key=f"a-{body}")
    second = result(server, "sign", body=body, key=f"b-{body}")
    assert first != second, "A call with another key got the signature that was made with the first one."
    assert result(server, "sign", body=body, key=f"a-{body}") == first, (
        "The same text and key got another signature than before."
    )


# --- Secrets ---


def test_a_secret_is_in_no_log(start: StartServer, tmp_path: Path) -> None:
    log, secret = tmp_path / "session.log", f"secret-{unique()}"
    server = start(DAGGER_LOG=str(log))
    result(server, "sign", body=unique(), key=secret)
    with qdrant() as url:
        result(server, "test_qdrant", url=url, api_key=secret)
    server.process.terminate()
    server.process.wait(30)
    written = log.read_text()
    assert "run_script.py" in written, "The session wrote no log, so this test proves nothing."
    assert secret not in written, "The secret is in the log of the session."
    assert secret not in server.log.read_text(), "The secret is in the log of the server."


@pytest.mark.skipif(not dagger_engine.STATE.exists(), reason="the engine keeps its cache elsewhere")
def test_a_secret_is_not_in_the_cache(server: Server) -> None:
    began, secret, body = time.time(), f"secret-{unique()}", f"body-{unique()}"
    result(server, "sign", body=body, key=secret)
    found = {word: cached(word, began) for word in (secret, body)}
    assert found[body], "Not even the input is found in the cache, so this test proves nothing."
    assert not found[secret], f"The secret is in the engine's cache: {found[secret]}"


def cached(word: str, since: float) -> list[Path]:
    """The files of the engine's cache, written since then, that contain the word."""
    found = []
    for folder, _, names in os.walk(dagger_engine.STATE):  # it passes over folders that are removed meanwhile
        for path in (Path(folder, name) for name in names):
            try:
                if path.is_file() and not path.is_symlink() and path.stat().st_mtime > since - 1:
                    found += [path] if word.encode() in path.read_bytes() else []
            except FileNotFoundError:  # removed meanwhile
                continue
    return found
