"""Makes the virtual environment: `python3 course/install.py GROUP` puts requirements/GROUP.txt into .venv.

It runs before anything is installed, and an old Python has to run it to say that it is too old. So it uses
only the standard library, and syntax that Python 3.6 can parse.
"""

import os
import subprocess
import sys
from typing import NoReturn, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")


def lock(group: str) -> str:
    return os.path.join(ROOT, "requirements", group + ".txt")


def stop(reason: str, advice: str) -> NoReturn:
    sys.exit("Cannot set the course up: %s\n%s" % (reason, advice))


def check_machine() -> None:
    if sys.version_info < (3, 11):
        stop(
            "Python 3.11 or newer is needed, and this is %d.%d." % sys.version_info[:2],
            "Install a newer one, or name one you have: make PYTHON=python3.13 lesson-01",
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        package = "python%d.%d-venv" % sys.version_info[:2]
        stop("this Python has no venv module.", "On Debian or Ubuntu: sudo apt-get install " + package)
    if not os.access(ROOT, os.W_OK):
        stop(
            "the folder %s cannot be written to." % ROOT,
            "Clone the course into a folder of your own, such as your home, and try again.",
        )


def run(*command: str) -> Tuple[int, str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def install(group: str) -> None:
    if not os.path.exists(PYTHON) or run(PYTHON, "-m", "pip", "--version")[0]:
        code, log = run(sys.executable, "-m", "venv", "--clear", VENV)
        if code:
            stop("the virtual environment could not be made.", log)
    hashed = ("--quiet", "--require-hashes", "-r")
    pip = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *hashed)
    uv = (PYTHON, "-m", "uv", "pip", "install", "--compile-bytecode", "--python", PYTHON, *hashed)
    # uv takes a tenth of pip's time. pip is tried when uv fails, because it reads pip's own settings. Both
    # compile to bytecode now, so that no program does it at its start.
    code, log = run(*(pip + (lock("installer"),)))
    if not code:
        code, log = run(*(uv + (lock(group),)))
    if code:
        code, log = run(*(pip + (lock(group),)))
    if code:
        last = [line for line in log.splitlines() if line.strip()][-1:] or ["no message"]
        stop(
            "the packages could not be installed (%s)." % last[0].strip(),
            "The first set-up needs the internet, or a package mirror that pip knows; later runs do not.",
        )
    # Put the course's own packages on the path of the virtual environment.
    site = subprocess.check_output([PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    with open(os.path.join(site.decode().strip(), "course.pth"), "w") as paths:
        paths.write("%s\n%s\n" % (ROOT, os.path.join(ROOT, "offline-model")))


if __name__ == "__main__":
    check_machine()
    print("Setting up the course's own Python environment in .venv (once, about 10 seconds) ...", flush=True)
    try:
        install(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("Stopped. The next run goes on from here.")
