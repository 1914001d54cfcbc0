"""Ask a Qdrant server for its version and collections, and say why when it cannot be reached."""

import http.client
import ipaddress
import json
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ANSWER_BYTES = 1_000_000


def resolve(host: str, port: int, private_allowed: bool) -> str:
    """Return an address of the host. Raises OSError if it has none, or a private one that is not allowed."""
    addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in addresses:
        if not (private_allowed or ipaddress.ip_address(address).is_global):
            raise OSError(f"{host} has the private address {address}, which is not allowed")
    return addresses[0]


def get(given: dict[str, Any], path: str) -> Any:
    """GET a path, from the address that was checked, whatever the name resolves to later."""
    url = urlsplit(given["url"])
    secure, host = url.scheme == "https", url.hostname or ""
    port = url.port or (443 if secure else 6333)
    address = resolve(host, port, given["allow_private_addresses"])
    connection = http.client.HTTPConnection(host, port, timeout=given["seconds"])
    connection.sock = socket.create_connection((address, port), timeout=given["seconds"])
    if secure:
        connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
    key = os.environ.get("API_KEY")
    connection.request("GET", url.path.rstrip("/") + path, headers={"api-key": key} if key else {})
    answer = connection.getresponse()
    if answer.status != 200:
        raise OSError(f"GET {path} is answered with {answer.status} {answer.reason}")
    return json.loads(answer.read(ANSWER_BYTES))


def ask(given: dict[str, Any]) -> dict[str, Any]:
    try:
        version = get(given, "/")["version"]
        collections = [each["name"] for each in get(given, "/collections")["result"]["collections"]]
    except TimeoutError:
        return {"reachable": False, "reason": f"It did not answer within {given['seconds']:g} s."}
    except OSError as error:
        return {"reachable": False, "reason": f"{error}."}
    except (ValueError, KeyError, TypeError, http.client.HTTPException):
        return {"reachable": False, "reason": "Something answers there that is not Qdrant."}
    return {"reachable": True, "version": version, "collections": collections}


print(json.dumps(ask(json.loads(Path(sys.argv[1]).read_text()))))
