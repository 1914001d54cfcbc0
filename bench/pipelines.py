"""Programs of lesson 08, run in the Dagger engine with the offline model of this machine."""

import os
import subprocess
import sys

from course import engines
from course.models import base_environment, start_model
from course.paths import ROOT
from course.processes import Processes

LESSON = ROOT / "code" / "08_agent_pipelines"


def run(program: str, *arguments: str, model: str = "offline?ttft=1") -> str:
    """Run a program; returns what it prints."""
    with Processes() as processes:
        url = start_model(processes)
        env = base_environment() | engines.environment() | {"PYTHONPATH": "src"}
        env |= {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "offline", "MODEL_NAME": model}
        env["PATH"] = os.pathsep.join([engines.environment().get("PATH", ""), env["PATH"]])
        command = [sys.executable, program, *arguments]
        done = subprocess.run(command, cwd=LESSON, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout
