"""The readable text of a page, of whatever it was made."""

import codecs
import re

from lxml import etree

# Of all codecs those that pages are written in: some of the others take very long, or run programs' escapes.
CHARSET = re.compile(r"(us-ascii|utf-?(8|16)|iso-|windows-|latin|gb|big5|euc-|shift|koi8)[\w-]*", re.I)


def to_text(body: bytes, kind: str, parameters: str) -> str:
    """The readable text of a body whose Content-Type is `kind;parameters`."""
    is_html = "html" in kind
    declared = re.search(r"charset\s*=\s*[\"']?([\w-]+)", parameters)
    if not declared and is_html:
        beginning = body[:1024].decode("ascii", "replace")
        declared = re.search(r"<meta[^>]+charset\s*=\s*[\"']?([\w-]+)", beginning, re.I)
    text = body.decode(codec(declared[1] if declared else "utf-8"), "replace")
    text = text.replace("\0", "").removeprefix("\ufeff")
    return html_to_text(text) if is_html else text.strip()


def codec(name: str) -> str:
    try:
        return codecs.lookup(name).name if CHARSET.fullmatch(name) else "utf-8"
    except LookupError:
        return "utf-8"


LEFT_OUT = re.compile("script|style|noscript|template|nav|iframe|object|svg|canvas|select|textarea|button")
INLINE = re.compile(
    "a|abbr|b|bdi|bdo|cite|code|data|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|small|span|strong|sub|sup|time|tt"
    "|u|var|wbr"
)
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)


def html_to_text(html: str) -> str:
    """What a reader of the page sees, a line for each heading, paragraph and entry."""
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(html.encode(), parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:  # no element in it
        return ""
    pieces = ["\n"]
    verbatim = 0  # how many <pre> we are in

    def say(text: str | None) -> None:
        if text and not verbatim:
            text = re.sub(r"\s+", " ", text)
            text = text.lstrip() if pieces[-1][-1].isspace() else text
        if text:
            pieces.append(text)

    walk = etree.iterwalk(root, events=("start", "end"))
    for event, element in walk:
        if not INLINE.fullmatch(element.tag):
            pieces.append("\n")
        verbatim += (element.tag == "pre") * (1 if event == "start" else -1)
        if event == "end":
            say(element.tail)
        elif is_hidden(element):
            walk.skip_subtree()
        else:
            say(element.text)
    lines = (line.rstrip() for line in "".join(pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def is_hidden(element: etree._Element) -> bool:
    return (
        bool(LEFT_OUT.fullmatch(element.tag))
        or "hidden" in element.attrib
        or element.get("aria-hidden") == "true"
        or bool(HIDDEN.search(element.get("style", "")))
    )
