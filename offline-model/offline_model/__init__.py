"""The offline model: a chat server with OpenAI's wire, made of books instead of weights."""
