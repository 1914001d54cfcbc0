"""Fifty questions of new users, each with the sections that answer it."""

import re
import tomllib
from pathlib import Path

import httpx2
import pytest
from offline_model.corpus import pages, urls
from openai import OpenAI
from support.tool_loop import Agent

HERE = Path(__file__).parent
GROUPS = tomllib.loads((HERE / "questions.toml").read_text())
QUESTIONS: dict[str, list[str]] = {ask: places for group in GROUPS.values() for ask, places in group.items()}
UNKNOWN = [question for question, places in QUESTIONS.items() if not places]
EXAMPLES = re.findall(
    r'<li><button type="button">(.+?)</button></li>',
    (HERE.parent / "research-agent/app/static/index.html").read_text(),
)
ENOUGH = 45
FILLER = re.compile(r"taken together|dwell on|no source stands behind|what I know myself|no direct answer")


def asked(client: OpenAI, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    reply = client.chat.completions.create(model="offline", messages=messages)  # type: ignore[arg-type]
    return str(reply.choices[0].message.content)


def is_right(question: str, answer: str) -> bool:
    """Return True if an answer quotes a section that answers, or says in one sentence that there is none."""
    places = re.findall(r"^Source: \[\d\] .+ \((docs/\S+|pydoc \S+)\)$", answer, re.MULTILINE)
    wanted = QUESTIONS[question]
    assert not FILLER.search(answer), f"This says nothing: {answer}"
    return bool(places) and set(places) <= set(wanted) if wanted else is_plain_refusal(answer)


def is_plain_refusal(answer: str) -> bool:
    return (
        "\n" not in answer and answer.startswith(("I ", "My books", "The search")) and answer.count(".") == 1
    )


def test_there_are_fifty_questions_about_all_that_the_course_is_about() -> None:
    assert len(QUESTIONS) == 50
    assert len(UNKNOWN) >= 8, "A model that is never without an answer has not been asked enough."


def test_forty_five_of_fifty_questions_of_new_users_find_their_section(client: OpenAI) -> None:
    answers = {question: asked(client, question) for question in QUESTIONS}
    wrong = {question: answer for question, answer in answers.items() if not is_right(question, answer)}
    told = "\n".join(f"- {question}\n  {answer[:200]!r}" for question, answer in wrong.items())
    assert len(wrong) <= len(QUESTIONS) - ENOUGH, f"Too many questions get a wrong answer:\n{told}"


def test_forty_five_of_fifty_questions_are_answered_by_research(client: OpenAI, http: httpx2.Client) -> None:
    wrong = {}
    for question, places in QUESTIONS.items():
        agent = Agent(client, http)
        answer = agent.ask(question)
        urls = {number: url for url, number in agent.numbers.items()}
        cited = [urls[int(number)].rpartition("/")[2] for number in re.findall(r"\[(\d+)\]", answer)]
        assert not FILLER.search(answer), f"This says nothing: {answer}"
        right = tuple(url_of(place) for place in places)
        if not (cited and cited[0].startswith(right) if places else is_plain_refusal(answer)):
            wrong[question] = answer
    told = "\n".join(f"- {question}\n  {answer[:200]!r}" for question, answer in wrong.items())
    assert len(wrong) <= len(QUESTIONS) - ENOUGH, f"Too many questions get a wrong answer:\n{told}"


def url_of(place: str) -> str:
    """The last part of the URL of a place. A section of the language reference has the URL of its page."""
    if place.startswith("docs/"):
        url = urls.page_url(place)
    else:
        name = place.removeprefix("pydoc ")
        page = urls.PAGE_BY_TOPIC.get(name)
        url = f"{page}.html#" if page else urls.object_url(name)
    return url.rpartition("/")[2]


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("What is an image?", "An image is a read-only stack of file system layers"),
        ("What is a list and what a tuple?", "mutable"),
        ("How do I read a CSV file?", "Comma Separated Value"),
        ("How do liveness and readiness differ?", "A failed liveness probe restarts the container"),
        ("What is Uvicorn?", "Uvicorn runs the application"),
    ],
)
def test_an_answer_begins_where_the_section_answers(
    client: OpenAI, http: httpx2.Client, question: str, says: str
) -> None:
    assert says in asked(client, question)
    assert says in Agent(client, http).ask(question)


def test_two_questions_in_one_get_two_answers(client: OpenAI) -> None:
    answer = asked(client, "What is a list and what a tuple?")
    assert len(re.findall(r"^Source: \[\d\]", answer, re.MULTILINE)) == 2, (
        "One of two questions is forgotten."
    )


@pytest.mark.parametrize("question", [*UNKNOWN, "qwxzk", "What is a type hint?", "3 * 4"])
def test_it_says_in_one_sentence_that_the_corpus_has_no_answer(client: OpenAI, question: str) -> None:
    answer = asked(client, question)
    assert is_plain_refusal(answer), f"After saying that it does not know, the model goes on: {answer}"


@pytest.mark.parametrize("question", EXAMPLES)
def test_the_examples_of_the_web_page_get_good_answers(
    client: OpenAI, http: httpx2.Client, question: str
) -> None:
    agent = Agent(client, http)
    answer = agent.ask(question)
    sentences = re.findall(r"[^\]]+ \[\d+\]", answer)
    assert 2 <= len(sentences) <= 4, f"A new user's first question gets a poor answer: {answer}"
    assert len(agent.calls_made) == 2, "It is searched for once, and one page is read."


def test_terms_with_indented_definitions_are_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11.2, which is Debian 12's own, has the page of types in this form."""
    page = """The standard type hierarchy
***************************

Below is a list of the types that are built into Python.

Callable types
   These are the types to which calls can be applied.

   Generator functions
      A function which uses yield is called a generator function.

Modules
   Modules are a basic unit of Python code.
"""
    monkeypatch.setattr(pages, "topics", {"types": page})
    assert [(each.title, each.sentences, each.text.strip()) for each in pages.language_reference()] == [
        (title, (sentence,), sentence)
        for title, sentence in (
            ("The standard type hierarchy", "Below is a list of the types that are built into Python."),
            ("Callable types", "These are the types to which calls can be applied."),
            ("Generator functions", "A function which uses yield is called a generator function."),
            ("Modules", "Modules are a basic unit of Python code."),
        )
    ]
