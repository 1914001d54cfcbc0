"""Lesson 09: what code inside of a variation's container cannot do. Each test runs it there."""

from pathlib import Path

import pytest
from support.container_tools import own_address
from support.parallel_agents import RESULT, Finished, Lesson, StartLesson, User

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
CONNECT = """
import socket
def connects(host, port, seconds=5):
    try:
        socket.create_connection((host, port), timeout=seconds).close()
        return "connected"
    except OSError as error:
        return type(error).__name__
"""


@pytest.fixture(scope="module")
def lesson(lesson_09: StartLesson) -> Lesson:
    return lesson_09(AGENT_TIMEOUT="60", WORK_MB="8", MEMORY_MB="128", PIDS="32")


@pytest.fixture(scope="module")
def user(lesson: Lesson) -> User:
    return lesson.user()


def test_the_agent_is_not_root_has_no_capabilities_and_gains_none(user: User, repository: Path) -> None:
    code = "import os; print(os.getuid() != 0); print(open('/proc/self/status').read())"
    text = user.run(repository, code).text()
    assert text.startswith("True"), "The agent is root in its container."
    status = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, f"The agent has capabilities: {name} is {status[name].strip()}."
    assert status["NoNewPrivs"].strip() == "1", "A setuid program could make the agent root."
    assert status["Seccomp"].strip() == "2", "No seccomp profile filters the agent's system calls."


def test_only_the_work_folder_and_tmp_can_be_written(user: User, repository: Path) -> None:
    code = """
    import os
    for folder in ("/", "/etc", "/usr", "/agent", "/var/tmp", "/run", "/dev", "/dev/shm", "/work", "/tmp"):
        try:
            open(folder + "/probe", "w").close()
            print(folder, "written")
        except OSError as error:
            print(folder, type(error).__name__)
    """
    lines = user.run(repository, code).text().splitlines()
    written = [line.split()[0] for line in lines if line.endswith("written")]
    assert written == ["/work", "/tmp"], f"The agent can write to {written}."  # noqa: S108


def test_no_address_outside_can_be_reached(user: User, repository: Path, offline_model: str) -> None:
    model = offline_model.rpartition(":")[2]
    code = f"""{CONNECT}
own = [("{own_address()}", {model}), ("172.17.0.1", {model}), ("127.0.0.1", {model})]
names = [("host.docker.internal", {model}), ("example.com", 80)]
for host, port in [("1.1.1.1", 53), ("169.254.169.254", 80), *own, *names]:
    print(host, connects(host, port))
print("gateway", connects("gateway", 8080))
"""
    lines = user.run(repository, code).text().splitlines()
    assert len(lines) == 8, f"The agent did not try all eight addresses: {lines}"
    reached = [line for line in lines[:-1] if line.endswith(" connected")]
    assert not reached, f"The agent has reached an address outside of its network: {reached}."
    assert lines[-1] == "gateway connected", "The agent cannot reach the model gateway."


def test_a_variation_cannot_reach_another_one(user: User, repository: Path) -> None:
    """The first listens and prints its address; the second, of another run, tries to connect to it."""
    listens = f"""{CONNECT}
import time
server = socket.create_server(("0.0.0.0", 7777))
address = socket.gethostbyname(socket.gethostname())
print("address", address, connects(address, 7777), flush=True)
time.sleep(50)
"""
    first = user.start(repository, listens)
    told = next((event.data["text"] for event in user.stream(first) if event.type == "log"), "").split()
    assert told[2:] == ["connected"], f"The first variation cannot reach its own address: {told}"
    tries = f"""{CONNECT}
import os
names = ["{told[1]}", "parallel-agents-{first}-1"]
print([connects(name, 7777) for name in names], connects("gateway", 8080))
"""
    text = user.run(repository, tries).text()
    assert user.get(first)["variations"][0]["state"] == "running", (
        "The first variation ended before the second one tried to reach it."
    )
    user.http.post(f"/runs/{first}/cancel")
    assert text.endswith(" connected"), f"The second variation cannot reach the model gateway: {text!r}"
    assert text.count("connected") == 1, f"A variation has reached another one: {text}."


def test_neither_the_host_nor_the_docker_socket_nor_another_work_folder_is_there(
    user: User, repository: Path, lesson: Lesson
) -> None:
    code = f"""
    import os
    paths = ("/var/run/docker.sock", "/run/docker.sock", {str(lesson.data)!r})
    print([path for path in paths if os.path.exists(path)])
    print(sorted(os.listdir("/work")))
    print([line.split()[4] for line in open("/proc/self/mountinfo") if " /work" in line])
    print([pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) > 100])
    """
    lines = user.run(repository, code).text().splitlines()
    assert len(lines) == 4, f"The code in the container did not run to its end: {lines}"
    assert lines[0] == "[]", f"The container has what belongs to the host: {lines[0]}."
    assert lines[1] == "['a.txt', 'b.txt']", f"/work holds {lines[1]}, not the files of the repository."
    assert lines[2] == "['/work']", f"The mounts below /work are {lines[2]}, not the work folder alone."
    assert lines[3] == "[]", "The container sees processes of others."


def test_the_real_key_is_nowhere_in_the_container(user: User, repository: Path) -> None:
    code = """
    import os
    print(dict(os.environ))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            print(open(f"/proc/{pid}/environ").read(), open(f"/proc/{pid}/cmdline").read())
        except OSError:
            pass
    """
    text = user.run(repository, code).text()
    assert "OPENAI_API_KEY" in text, "The container has no OPENAI_API_KEY: its agent cannot ask the model."
    assert "the-real-key" not in text, "The container's environment has the real key."


def ran_on(done: Finished) -> None:
    assert done.variation(2)["state"] == "passed", "What one variation did has hurt another one."


FIRST = "import os\nif os.environ['AGENT_SEED'] != '1':\n" + "".join(
    f"    {line}\n" for line in RESULT.strip().splitlines()
)


def test_a_fork_bomb_ends_at_the_process_limit(user: User, repository: Path) -> None:
    code = (
        FIRST
        + """
else:
    made = 0
    try:
        while made < 200:
            if os.fork() == 0:
                import time; time.sleep(60)
            made += 1
    except OSError:
        pass
    print("made", made, flush=True)
"""
    )
    done = user.run(repository, code, variations=2)
    made = int(done.text().split()[1])
    assert made <= 32, f"The agent has started {made} processes."
    ran_on(done)


def test_a_memory_hog_is_killed_and_the_others_go_on(user: User, repository: Path) -> None:
    code = (
        FIRST
        + """
else:
    print("eating", flush=True)
    hog = []
    while True:
        hog.append(bytearray(8 * 2**20))
"""
    )
    done = user.run(repository, code, variations=2)
    state = done.variation(1)["state"]
    assert state == "out_of_memory", (
        f"The agent takes more memory than it may, and its variation is {state!r}, not out_of_memory:\n"
        f"{done.variation(1)}"
    )
    ran_on(done)


def test_a_disk_filler_is_stopped(user: User, repository: Path, lesson: Lesson) -> None:
    code = (
        FIRST
        + """
else:
    import time
    for n in range(100_000):
        with open(str(n), "wb") as file:
            file.write(bytes(4 * 2**20))
        time.sleep(0.02)
"""
    )
    done = user.run(repository, code, variations=2)
    state = done.variation(1)["state"]
    assert state == "over_quota", (
        f"The agent fills its work folder, and its variation is {state!r}, not over_quota:\n"
        f"{done.variation(1)}"
    )
    ran_on(done)
    assert not list((lesson.data / "work").iterdir()), "The full work folder is still there."


def test_folders_in_folders_are_stopped_and_removed(user: User, repository: Path, lesson: Lesson) -> None:
    code = """
    import os, time
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    time.sleep(3600)
    """
    done = user.run(repository, code)
    assert done.variation()["state"] == "over_quota", "What is too deep to be measured has no limit."
    assert not list((lesson.data / "work").iterdir()), "The deep work folder is still there."


def test_an_event_may_have_any_names(user: User, repository: Path) -> None:
    code = """
    import json
    print(json.dumps({"type": "say", "text": "hi", "kind": "x", "self": "y"}))
    """ + RESULT.replace("\n", "\n    ")
    done = user.run(repository, code)
    assert done.variation()["state"] == "passed", "The names of an agent's event break the server."
    said = [each.data["text"] for each in done.events if each.type == "say"]
    assert said == ["hi"], f"The agent says 'hi' once, and the run's events have {said}."


def test_one_file_cannot_be_larger_than_the_limit(user: User, repository: Path) -> None:
    code = """
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open("large", "wb") as file:
            for n in range(64):
                file.write(bytes(2**20))
                file.flush()
    except OSError as error:
        print(type(error).__name__, n)
    """
    done = user.run(repository, code)
    assert done.text().startswith("OSError"), (
        f"The agent writes a file of 64 MB where 8 are allowed, and prints {done.text()!r}, not an OSError."
    )


def test_an_output_flood_is_cut_and_said(user: User, repository: Path) -> None:
    code = """
    import sys
    for n in range(400_000):
        sys.stdout.write(f"{n:09} {'x' * 90}\\n")
    """ + RESULT.replace("\n", "\n    ")
    done = user.run(repository, code)
    text, state = done.text(), done.variation(1)
    assert state["state"] == "passed", (
        f"The agent prints a flood and passes, and its variation is {state['state']!r}."
    )
    assert state["output_bytes"] > 40_000_000, (
        f"The agent prints more than 40,000,000 bytes, and {state['output_bytes']} are counted."
    )
    assert len(text) < 1_200_000, "More of the output is kept than OUTPUT_BYTES allows."
    numbers = [int(line.split()[0]) for line in text.splitlines() if line[:9].isdigit()]
    assert numbers == list(range(len(numbers))), "The output is not in order, or has gaps."
    assert "is left out" in text, "The output is cut, and nothing says so."


def test_links_out_of_the_work_folder_are_not_followed(user: User, repository: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of the host\n")
    code = f"""
    import os
    os.symlink({str(secret)!r}, "link")
    os.symlink("/etc", "folder")
    os.makedirs("sub/.git/hooks")
    open("sub/.git/config", "w").write("[core]\\nfsmonitor = touch {tmp_path}/attacked\\n")
    open("sub/.git/HEAD", "w").write("ref: refs/heads/main\\n")
    os.makedirs(".git/hooks")
    open(".git/config", "w").write("[core]\\nfsmonitor = touch {tmp_path}/attacked\\n")
    open(".gitattributes", "w").write("* diff=attack filter=attack\\n")
    os.mkfifo("pipe")
    os.mkdir("closed", 0)
    """ + RESULT.replace("\n", "\n    ")
    done = user.run(repository, code)
    state = done.variation(1)["state"]
    assert state == "passed", (
        f"The agent leaves links and a pipe in its work folder, and its variation is {state!r}, not passed:\n"
        f"{done.variation(1)}\n{done.text()}"
    )
    patch = user.http.get(f"/runs/{done.run['id']}/variations/1/patch").text
    assert "new file mode 120000" in patch and f"+{secret}" in patch, (
        "The link is not in the patch as a link."
    )
    assert "a secret of the host" not in patch, "The server has followed a link out of the work folder."
    assert not (tmp_path / "attacked").exists(), "Git has run a command that the agent has written."
