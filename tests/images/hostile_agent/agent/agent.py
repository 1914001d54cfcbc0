"""A hostile agent: it runs its prompt as Python code."""

import os

exec(os.environ["AGENT_PROMPT"])  # noqa: S102  # that is its purpose
