"""Lesson 09: the lesson's own tests, of parts that need no engine."""

import re
import subprocess
import sys
from pathlib import Path

from course.models import base_environment


def test_the_lessons_own_tests_pass(lesson_root: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    folder = lesson_root / "code/09_parallel_agents"
    done = subprocess.run(
        command, cwd=folder, env=base_environment(), capture_output=True, text=True, check=False
    )
    sentences = re.findall("AssertionError: (.*)", done.stdout)
    failed = re.findall("^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    sentences.append(f"The lesson's own tests fail: {failed}")
    assert done.returncode == 0, "\n".join([*sentences, done.stdout, done.stderr])


def test_every_setting_is_in_the_example(lesson_root: Path) -> None:
    folder = lesson_root / "code/09_parallel_agents"
    settings = re.findall(r"^    (\w+): ", (folder / "parallel_agents/config.py").read_text(), re.MULTILINE)
    example = re.findall(r"^(\w+)=", (folder / ".env.example").read_text(), re.MULTILINE)
    differ = {name.lower() for name in example} ^ set(settings)
    assert example and not differ, (
        f"In .env.example and config.py are not the same settings: {sorted(differ)}."
    )
