"""Search routes: SearXNG's JSON search over the corpus, and the text of its pages.

These routes need no API key, and the call log does not list them.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from offline_model.api.errors import ApiError, bad_request
from offline_model.corpus.search import Corpus

MAX_QUERY_CHARACTERS = 2_000


class SearchRoutes:
    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    async def search(self, request: Request) -> Response:
        """`/search?q=&format=json`. Refuses other formats; SearXNG sends HTML when the format is missing."""
        query = request.query_params.get("q", "").strip()
        if not query:
            raise bad_request("Missing required parameter: 'q'.", "q", "missing_required_parameter")
        if len(query) > MAX_QUERY_CHARACTERS:
            raise bad_request(
                f"Invalid 'q': longer than {MAX_QUERY_CHARACTERS} characters.", "q", "string_above_max_length"
            )
        if request.query_params.get("format") != "json":
            raise bad_request("Invalid 'format': this server sends results only as 'json'.", "format")
        results = [
            {"title": found.title, "url": found.url, "content": " ".join(found.best_sentences(2))}
            for found in self.corpus.web_results(query)
        ]
        return JSONResponse({"query": query, "number_of_results": len(results), "results": results})

    async def page(self, request: Request) -> Response:
        """`/page?url=`: the text of a page or section that the search found."""
        url = request.query_params.get("url", "")
        if not url:
            raise bad_request("Missing required parameter: 'url'.", "url", "missing_required_parameter")
        text = self.corpus.page(url)
        if not text:
            raise ApiError(404, f"The corpus has no page {url[:200]}.", param="url", code="page_not_found")
        return PlainTextResponse(text)
