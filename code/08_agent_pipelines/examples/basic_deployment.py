"""Deploy agents, ask each a question, and print the answers.

PYTHONPATH=src python examples/basic_deployment.py
"""

import asyncio

from main import connected

QUESTIONS = ["What is a container?", "What is an image?", "What is graceful shutdown?"]


async def main() -> None:
    async with connected() as pipelines, pipelines.deployed(agent_count=3) as deployment:
        for result in (await deployment.run("fan-out", *QUESTIONS))["results"]:
            print(f"{result['agent']}: {result['prompt']}\n  {result['answer'].splitlines()[0]}")


if __name__ == "__main__":
    asyncio.run(main())
