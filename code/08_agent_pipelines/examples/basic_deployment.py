"""Deploy agents, ask each a question, and print the answers.

PYTHONPATH=src python examples/basic_deployment.py
"""

import asyncio

from agent_ops import deployed
from main import connected

QUESTIONS = ["What is a container?", "What is an image?", "What is graceful shutdown?"]


async def main() -> None:
    async with connected() as pipelines, deployed(pipelines.source, pipelines.access(), 3) as deployment:
        done = await deployment.run("coordination.py", "fan-out", *QUESTIONS)
        for result in done["results"]:
            print(f"{result['agent']}: {result['prompt']}\n  {result['answer'].splitlines()[0]}")


if __name__ == "__main__":
    asyncio.run(main())
