"""URLs: the address of a passage, in the course's pages or in Python's documentation on the web."""

import asyncio
import builtins
import re
import sys
import unicodedata

# The course has no site. RFC 2606 reserves `.example`, so these URLs can belong to nobody else.
COURSE_SITE = "https://agents-in-containers.example"
PYTHON_DOCS = "https://docs.python.org/3"

# Pages of the language reference, each with the topics of help() that it explains.
TOPICS_BY_PAGE = {
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
PAGE_BY_TOPIC = {topic: page for page, topics in TOPICS_BY_PAGE.items() for topic in topics.split()}

# The submodules with a page of their own. All others are documented on the page of their package.
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
# Modules that are documented under another name.
PAGE_BY_MODULE = {
    "_blake2": "hashlib", "_lsprof": "profile", "_md5": "hashlib",
    "_posixshmem": "multiprocessing.shared_memory", "_posixsubprocess": "subprocess",
    "_sha1": "hashlib", "_sha2": "hashlib", "_sha256": "hashlib", "_sha3": "hashlib",
    "_sha512": "hashlib", "cProfile": "profile", "genericpath": "os.path", "ntpath": "os.path",
    "nturl2path": "urllib.request", "opcode": "dis", "posixpath": "os.path", "sre_compile": "re",
    "sre_constants": "re", "sre_parse": "re", "xml.sax.saxutils": "xml.sax.utils",
    "xml.sax.xmlreader": "xml.sax.reader",
}  # fmt: skip
# The pages about asyncio, each with the modules that define what it documents.
ASYNCIO_MODULES_BY_PAGE = {
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
ASYNCIO_PAGE_BY_MODULE = {
    module: page for page, modules in ASYNCIO_MODULES_BY_PAGE.items() for module in modules.split()
}
BUILTIN_TYPES = frozenset(
    "bool bytearray bytes complex dict float frozenset int list memoryview range set str tuple".split()  # noqa: SIM905
)


def page_url(location: str) -> str:
    """The URL of a section such as `docs/01-basic-api.md#run-it`; on the web the folder is always `docs`."""
    path, _, anchor = location.partition("#")
    name = path.rpartition("/")[2].removesuffix(".md")
    return f"{COURSE_SITE}/docs/{name}.html" + (f"#{anchor}" if anchor else "")


def topic_url(topic: str, heading: str) -> str:
    """The URL of a section of the language reference; for an unlisted topic, its entry in the index."""
    page = PAGE_BY_TOPIC.get(topic)
    return (
        f"{PYTHON_DOCS}/{page}.html#{section_id(heading)}" if page else f"{PYTHON_DOCS}/genindex.html#{topic}"
    )


def section_id(heading: str) -> str:
    """The anchor that docutils gives a heading."""
    plain = unicodedata.normalize("NFKD", heading.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"^[-0-9]+|-+$", "", re.sub(r"[^a-z0-9]+", "-", plain))


def object_url(name: str) -> str:
    """The URL of a module, class or function of the standard library, by its dotted name."""
    module = documented_module(name)
    if not module:
        return f"{PYTHON_DOCS}/library/{builtin_page(name)}.html#{name}"
    # Pages are in lower case, anchors are not.
    page = PAGE_BY_MODULE.get(module, asyncio_page(name) if module == "asyncio" else module).lower()
    return f"{PYTHON_DOCS}/library/{page}.html#{f'module-{name}' if name == module else name}"


def documented_module(name: str) -> str:
    """The module on whose page a name is documented; empty for a builtin."""
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
    return "stdtypes" if first in BUILTIN_TYPES else "functions"


def asyncio_page(name: str) -> str:
    """The page of asyncio's documentation that has a name such as `asyncio.gather`."""
    if name == "asyncio":
        return name
    first = name.split(".")[1]
    if first in {"Task", "Future"}:
        # Both are written in C and do not name the module that defines them.
        return f"asyncio-{first.lower()}"
    module = getattr(getattr(asyncio, first, None), "__module__", first)
    return ASYNCIO_PAGE_BY_MODULE.get(module.removeprefix("asyncio."), "asyncio-llapi-index")
