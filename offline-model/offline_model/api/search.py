"""The library as a web: SearXNG's JSON search over it, and the text of its pages.

A search engine asks for no key, and these calls are none of the model's: the ledger does not count them.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from offline_model.api.errors import ApiError, bad_request
from offline_model.corpus.search import Corpus

MOST_QUERY = 2_000


class Web:
    """Two routes over one library."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    async def search(self, request: Request) -> Response:
        """`/search?q=&format=json`. SearXNG sends HTML without the format: forgetting it shows here, too."""
        query = request.query_params.get("q", "").strip()
        if not query:
            raise bad_request("Missing required parameter: 'q'.", "q", "missing_required_parameter")
        if len(query) > MOST_QUERY:
            raise bad_request(
                f"Invalid 'q': longer than {MOST_QUERY} characters.", "q", "string_above_max_length"
            )
        if request.query_params.get("format") != "json":
            raise bad_request("Invalid 'format': this server has results as 'json' only.", "format")
        results = [
            {"title": found.title, "url": found.url, "content": " ".join(found.best_sentences(2))}
            for found in self.corpus.web_results(query)
        ]
        return JSONResponse({"query": query, "number_of_results": len(results), "results": results})

    async def page(self, request: Request) -> Response:
        """`/page?url=`, for the URLs that the search gives."""
        url = request.query_params.get("url", "")
        if not url:
            raise bad_request("Missing required parameter: 'url'.", "url", "missing_required_parameter")
        text = self.corpus.page(url)
        if not text:
            raise ApiError(404, f"The library has no page {url[:200]}.", param="url", code="page_not_found")
        return PlainTextResponse(text)
