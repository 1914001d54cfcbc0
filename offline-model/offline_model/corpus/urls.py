"""Addresses: the URL at which a passage of the books stands on the web."""

import asyncio
import builtins
import re
import sys
import unicodedata

# The course has no site; RFC 2606 keeps `.example` free, so nobody else's page stands at these.
COURSE = "https://agents-in-containers.example"
PYTHON = "https://docs.python.org/3"

# The pages of the manual with the labels that help() calls topics.
TOPICS = {
    "library/__main__": "__main__",
    "library/pdb": "debugger",
    "library/stdtypes": "bltin-code-objects bltin-ellipsis-object bltin-null-object bltin-type-objects "
    "specialattrs string-methods truth typesfunctions typesmapping typesmethods typesmodules typesseq "
    "typesseq-mutable",
    "library/string": "formatstrings",
    "reference/compound_stmts": "async class compound else for function if try while with",
    "reference/datamodel": "attribute-access callable-types context-managers customization numeric-types "
    "objects sequence-types specialnames types",
    "reference/executionmodel": "dynamic-features exceptions execmodel naming",
    "reference/expressions": "assignment-expressions atom-identifiers atom-literals attribute-references "
    "await binary bitwise booleans calls comparisons conversions dict exprlists in lambda lists "
    "operator-summary power shifting slicings subscriptions unary",
    "reference/lexical_analysis": "floating id-classes identifiers imaginary integers numbers strings",
    "reference/simple_stmts": "assert assignment augassign break continue del global import nonlocal pass "
    "raise return yield",
}
PAGE_OF_TOPIC = {label: page for page, labels in TOPICS.items() for label in labels.split()}

# The submodules that have a page of their own; all others stand on their package's.
SUBMODULES = frozenset(
    """collections.abc compression.zstd concurrent.futures concurrent.interpreters curses.ascii
    curses.panel email.charset email.contentmanager email.encoders email.errors email.generator
    email.header email.headerregistry email.iterators email.message email.mime email.parser
    email.policy email.utils html.entities html.parser http.client http.cookiejar http.cookies
    http.server importlib.metadata importlib.resources importlib.resources.abc logging.config
    logging.handlers multiprocessing.shared_memory os.path string.templatelib unittest.mock
    urllib.error urllib.parse urllib.request urllib.robotparser xml.dom xml.dom.minidom
    xml.dom.pulldom xml.etree.ElementTree xml.sax xml.sax.handler xml.sax.saxutils xml.sax.xmlreader
    xmlrpc.client xmlrpc.server""".split()  # noqa: SIM905
)
# Modules whose page has another name.
RENAMED = {
    "_blake2": "hashlib", "_lsprof": "profile", "_md5": "hashlib",
    "_posixshmem": "multiprocessing.shared_memory", "_posixsubprocess": "subprocess",
    "_sha1": "hashlib", "_sha2": "hashlib", "_sha256": "hashlib", "_sha3": "hashlib",
    "_sha512": "hashlib", "cProfile": "profile", "genericpath": "os.path", "ntpath": "os.path",
    "nturl2path": "urllib.request", "opcode": "dis", "posixpath": "os.path", "sre_compile": "re",
    "sre_constants": "re", "sre_parse": "re", "xml.sax.saxutils": "xml.sax.utils",
    "xml.sax.xmlreader": "xml.sax.reader",
}  # fmt: skip
# What asyncio offers, by the module that it comes from.
ASYNCIO = {
    "asyncio-eventloop": "events base_events selector_events unix_events _asyncio",
    "asyncio-exceptions": "exceptions",
    "asyncio-future": "futures base_futures",
    "asyncio-protocol": "protocols transports",
    "asyncio-queue": "queues",
    "asyncio-runner": "runners",
    "asyncio-stream": "streams",
    "asyncio-subprocess": "subprocess",
    "asyncio-sync": "locks",
    "asyncio-task": "tasks taskgroups timeouts threads coroutines",
}
PAGE_OF_ASYNCIO = {home: page for page, homes in ASYNCIO.items() for home in homes.split()}
TYPES = frozenset(
    "bool bytearray bytes complex dict float frozenset int list memoryview range set str tuple".split()  # noqa: SIM905
)


def of_page(place: str) -> str:
    """Of `docs/01-basic-api.md#run-it`; the folder is always `docs` on the web."""
    path, _, anchor = place.partition("#")
    name = path.rpartition("/")[2].removesuffix(".md")
    return f"{COURSE}/docs/{name}.html" + (f"#{anchor}" if anchor else "")


def of_topic(topic: str, heading: str) -> str:
    """Of a section of the manual. A topic that this table does not know is sought in the manual's index."""
    page = PAGE_OF_TOPIC.get(topic)
    return f"{PYTHON}/{page}.html#{section_id(heading)}" if page else f"{PYTHON}/genindex.html#{topic}"


def section_id(heading: str) -> str:
    """The anchor that docutils gives a heading."""
    plain = unicodedata.normalize("NFKD", heading.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"^[-0-9]+|-+$", "", re.sub(r"[^a-z0-9]+", "-", plain))


def of_name(name: str) -> str:
    """Of a module, or of a thing in one, by its dotted name."""
    module = module_of(name)
    if not module:
        return f"{PYTHON}/library/{builtin_page(name)}.html#{name}"
    page = RENAMED.get(module, asyncio_page(name) if module == "asyncio" else module).lower()
    # Pages are in lower case, anchors as they are written.
    return f"{PYTHON}/library/{page}.html#{f'module-{name}' if name == module else name}"


def module_of(name: str) -> str:
    """The documented module that a name belongs to; empty for a builtin."""
    parts = name.split(".")
    for end in range(len(parts), 1, -1):
        if (module := ".".join(parts[:end])) in SUBMODULES:
            return module
    return parts[0] if parts[0] in sys.stdlib_module_names else ""


def builtin_page(name: str) -> str:
    first = name.partition(".")[0]
    value = getattr(builtins, first, None)
    if isinstance(value, type) and issubclass(value, BaseException):
        return "exceptions"
    return "stdtypes" if first in TYPES else "functions"


def asyncio_page(name: str) -> str:
    """The part of asyncio's documentation that has this name."""
    if name == "asyncio":
        return name
    thing = name.split(".")[1]
    if thing in {"Task", "Future"}:
        # Both come from C, which does not say from where.
        return f"asyncio-{thing.lower()}"
    home = getattr(getattr(asyncio, thing, None), "__module__", thing)
    return PAGE_OF_ASYNCIO.get(home.removeprefix("asyncio."), "asyncio-llapi-index")
