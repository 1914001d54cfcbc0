"""An image's files, layer by layer. A file that a later layer removes is still in the image."""

import re
from dataclasses import dataclass

from course.containers.local_image import LocalImage

SECRETS = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{36}|\bhf_[A-Za-z0-9]{30,}"
)
SECRET_PREFIXES = (b"-----BEGIN", b"AKIA", b"sk-", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"hf_")
SECRET_FILES = re.compile(
    r"/(?:\.env(?:\.(?!example)[^/]*)?|\.git/config|\.netrc|\.pypirc|\.npmrc|id_(?:rsa|ed25519))$"
)
SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)S?$", re.IGNORECASE)
PUBLIC_NAMES = {"GPG_KEY"}  # the public key of the release manager, in every Python image

# A running agent needs no installers, no build tools and no leftovers of a build.
INSTALLERS = re.compile(r"/(?:pip3?|uv|apt-get)$|/(?:site|dist)-packages/pip/__init__\.py$")
LEFTOVERS = re.compile(
    r"/(?:gcc|cc|make)$|^/root/\.cache/.|^/var/lib/apt/lists/(?!lock$|partial/?$).|/\.pytest_cache/|/\.git/"
)

# How a layer removes what is below it: the OCI image specification, "Whiteouts".
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"

SCANNED_LAYERS: dict[str, list[tuple[str, bool]]] = {}  # by layer: images share layers, and each is read once


@dataclass
class StoredFile:
    """A file of one layer."""

    path: str
    secret: bool
    hidden: bool = False  # by a later layer, which removes or replaces it

    @property
    def description(self) -> str:
        """How the file is named in a finding."""
        if self.hidden:
            return f"{self.path} was removed or replaced, but is still in a lower layer"
        return f"The image holds {self.path}"


def stored_files(image: LocalImage) -> list[StoredFile]:
    """Every file of every layer of an image, the lowest layer first."""
    layers = []
    for name, files in image.layers():
        if name not in SCANNED_LAYERS:
            SCANNED_LAYERS[name] = [(path, holds_secret(content)) for path, content in files]
        layers.append(SCANNED_LAYERS[name])
    return merge_layers(layers)


def merge_layers(layers: list[list[tuple[str, bool]]]) -> list[StoredFile]:
    """The files of layers, each with whether a later layer hides it."""
    found: list[StoredFile] = []
    visible: dict[str, StoredFile] = {}
    for layer in layers:
        removed, folders = set(), set()
        for path, _ in layer:
            folder, _, name = path.rpartition("/")
            if name == OPAQUE:
                folders.add(folder)
            elif name.startswith(WHITEOUT):
                removed.add(f"{folder}/{name.removeprefix(WHITEOUT)}")
        for path, file in list(visible.items()) if removed or folders else ():
            parents = {path[:at] for at, letter in enumerate(path) if letter == "/"}
            if path in removed or parents & (removed | folders):
                file.hidden = True
                del visible[path]
        for path, secret in layer:
            if path.rpartition("/")[2].startswith(WHITEOUT):
                continue
            if path in visible:
                visible[path].hidden = True
            visible[path] = StoredFile(path, secret)
            found.append(visible[path])
    return found


def holds_secret(content: bytes) -> bool:
    """Whether a file holds a secret. A plain search comes first, which is a hundred times faster."""
    return any(begin in content for begin in SECRET_PREFIXES) and bool(SECRETS.search(content))
