"""Sign a text, such as the body of a webhook, with a secret key."""

from pydantic import BaseModel, Field, SecretStr

from modules.tools.core import SCRIPTS, Tool


class Input(BaseModel, extra="forbid"):
    body: str = Field(max_length=100_000)
    key: SecretStr = Field(min_length=1, max_length=1_000)


class Output(BaseModel):
    signature: str


TOOL = Tool(
    name="sign",
    description="Sign the body of a webhook with a key: HMAC-SHA256.",
    input=Input,
    output=Output,
    script=SCRIPTS / "sign_script.py",
)
