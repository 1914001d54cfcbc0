"""The baseline for distinct questions: lesson 02's chain called in a loop, without a server.

`python bench/chain_baseline.py SECONDS` reads questions from standard input and prints answers a second.
"""

import asyncio
import gc
import itertools
import sys
import time

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

CALLERS = 64


async def main(seconds: float, questions: list[str]) -> float:
    model = ChatOpenAI(max_retries=0, stream_usage=True, model="offline")
    persona = SystemMessage(
        "Answer briefly and exactly. The situation, as the caller describes it in JSON: {}"
    )
    turns, answers = itertools.cycle(questions), 0
    gc.freeze()
    began = time.perf_counter()

    async def caller() -> None:
        nonlocal answers
        while time.perf_counter() - began < seconds:
            messages = [persona, HumanMessage(next(turns))]
            await model.ainvoke(messages, max_tokens=1024, temperature=1)
            answers += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answers / (time.perf_counter() - began)


if __name__ == "__main__":
    import uvloop

    print(uvloop.run(main(float(sys.argv[1]), sys.stdin.read().splitlines())))
