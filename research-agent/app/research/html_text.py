"""Extract the readable text of a web page."""

import codecs
import re

from lxml import etree

# The charsets of web pages. Other Python codecs can be very slow, or interpret escape sequences of Python.
WEB_CHARSET = re.compile(r"(us-ascii|utf-?(8|16)|iso-|windows-|latin|gb|big5|euc-|shift|koi8)[\w-]*", re.I)

SKIPPED_TAGS = re.compile(
    "script|style|noscript|template|nav|iframe|object|svg|canvas|select|textarea|button"
)
INLINE_TAGS = re.compile(
    "a|abbr|b|bdi|bdo|cite|code|data|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|small|span|strong|sub|sup|time|tt"
    "|u|var|wbr"
)
HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)


def body_to_text(body: bytes, content_type: str, parameters: str) -> str:
    """Return the readable text of a response body whose Content-Type is `content_type;parameters`."""
    is_html = "html" in content_type
    declared = re.search(r"charset\s*=\s*[\"']?([\w-]+)", parameters)
    if not declared and is_html:
        beginning = body[:1024].decode("ascii", "replace")
        declared = re.search(r"<meta[^>]+charset\s*=\s*[\"']?([\w-]+)", beginning, re.I)
    text = body.decode(codec_for(declared[1] if declared else "utf-8"), "replace")
    text = text.replace("\0", "").removeprefix("\ufeff")
    return html_to_text(text) if is_html else text.strip()


def codec_for(charset: str) -> str:
    """Return the Python codec of a charset; UTF-8 if the charset is unknown."""
    try:
        return codecs.lookup(charset).name if WEB_CHARSET.fullmatch(charset) else "utf-8"
    except LookupError:
        return "utf-8"


def html_to_text(html: str) -> str:
    """Return the visible text of a page, one line for each heading, paragraph and list item."""
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(html.encode(), parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:  # the page has no element
        return ""
    pieces = ["\n"]
    pre_depth = 0  # the number of open <pre> elements

    def append(text: str | None) -> None:
        if text and not pre_depth:
            text = re.sub(r"\s+", " ", text)
            text = text.lstrip() if pieces[-1][-1].isspace() else text
        if text:
            pieces.append(text)

    walk = etree.iterwalk(root, events=("start", "end"))
    for event, element in walk:
        if not INLINE_TAGS.fullmatch(element.tag):
            pieces.append("\n")
        pre_depth += (element.tag == "pre") * (1 if event == "start" else -1)
        if event == "end":
            append(element.tail)
        elif is_hidden(element):
            walk.skip_subtree()
        else:
            append(element.text)
    lines = (line.rstrip() for line in "".join(pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def is_hidden(element: etree._Element) -> bool:
    """Return whether a browser does not show this element as text."""
    return (
        bool(SKIPPED_TAGS.fullmatch(element.tag))
        or "hidden" in element.attrib
        or element.get("aria-hidden") == "true"
        or bool(HIDDEN_STYLE.search(element.get("style", "")))
    )
