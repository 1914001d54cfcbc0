"""A small research agent: a loop that runs the tools for which the offline model asks."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
from openai import OpenAI

STRING = {"type": "string"}


def tool(name: str, description: str, argument: str) -> Any:
    schema = {"type": "object", "properties": {argument: STRING}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


SEARCH = tool(
    "web_search", "Search the web. Gives numbered results: title, URL, and a piece of text.", "query"
)

FETCH = tool("fetch_page", "Read a page: the text behind a URL, such as one of the search's results.", "url")

FINAL_STEP_PROMPT = (
    "All steps are used up. Answer now with what you have, and say what you could not find out."
)


def results(http: httpx2.Client, query: str) -> list[dict[str, str]]:
    reply = http.get("/search", params={"q": query, "format": "json"})
    assert reply.status_code == 200, f"The search for {query!r} was refused: {reply.text}"
    found: list[dict[str, str]] = reply.json()["results"]
    return found


def next_message(client: OpenAI, messages: Any, *tools: Any, **options: Any) -> Any:
    """The model's next message."""
    given: Any = {"model": "offline", "messages": messages} | options
    if tools:
        given["tools"] = tools
    return client.chat.completions.create(**given).choices[0].message


def tool_calls_of(message: Any) -> list[tuple[str, str]]:
    """The tools that a message calls, each with its one argument."""
    calls = [call.function for call in message.tool_calls or []]
    return [(call.name, next(iter(json.loads(call.arguments).values()))) for call in calls]


class Agent:
    """A small research agent, whose tools search and read the pages of the offline model.

    The system prompt allows `limit` steps. The agent removes the tools after `steps_before_answer` steps.
    """

    def __init__(
        self,
        client: OpenAI,
        http: httpx2.Client,
        *,
        limit: int = 5,
        steps_before_answer: int | None = None,
        **tools: Callable[[str], str],
    ) -> None:
        self.client, self.http = client, http
        self.limit = limit
        self.steps_before_answer = limit if steps_before_answer is None else steps_before_answer
        self.tools = {"web_search": self.search, "fetch_page": self.read} | tools
        self.numbers: dict[str, int] = {}
        self.calls_made: list[tuple[str, str]] = []

    def search(self, query: str) -> str:
        found = results(self.http, query)
        for each in found:
            self.numbers.setdefault(each["url"], len(self.numbers) + 1)
        entries = [f"[{self.numbers[e['url']]}] {e['title']}\n{e['url']}\n{e['content']}" for e in found]
        return "\n\n".join(entries) or f'No results for "{query}".'

    def read(self, url: str) -> str:
        reply = self.http.get("/page", params={"url": url})
        assert reply.status_code == 200, f"The search gave {url}, but /page does not have it."
        return f"[{self.numbers[url]}] {url}\n{url}\n\n{reply.text}"

    def ask(self, question: str, **options: Any) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            system = f"You are a research agent. You may take at most {self.limit} steps."
            if len(self.calls_made) < self.steps_before_answer:
                head = {"role": "system", "content": system}
                message = next_message(
                    self.client, [head, *messages], SEARCH, FETCH, parallel_tool_calls=False, **options
                )
            else:
                head = {"role": "system", "content": f"{system}\n\n{FINAL_STEP_PROMPT}"}
                message = next_message(self.client, [head, *messages], **options)
            if not message.tool_calls:
                return str(message.content)
            messages.append(message.model_dump(exclude_none=True))
            for call, (name, argument) in zip(message.tool_calls, tool_calls_of(message), strict=True):
                self.calls_made.append((name, argument))
                result = self.tools[name](argument)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
