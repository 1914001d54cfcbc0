"""The settings that a test needs, before it imports the service."""

import os

os.environ["OPENAI_API_KEY"] = "unused"
os.environ["OPENAI_BASE_URL"] = "http://127.0.0.1:9/v1"  # no test may ask a model
