"""The offline model: a server with OpenAI's protocol that answers from documents instead of weights."""
