"""The doors that tests stand exchanges behind, and which a machine can open."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl

import pytest

from exchange.errors import InvalidFieldError
from nodes.doors import envoy

__all__ = ["asked", "door_of", "need", "posted"]


def need(door: str) -> None:
    """Skip whatever needs a door that this machine cannot open: a Python without libpython, say."""
    if door == "envoy":
        try:
            envoy.require()
        except InvalidFieldError as error:
            pytest.skip(error.message)


def door_of(request: pytest.FixtureRequest) -> str:
    """The door that a fixture's exchange stands behind."""
    return getattr(request, "param", "grpcio")


def posted(exchange, who, path, data, content="application/json", *more, province="510000"):
    """What an HTTP client without gRPC is answered: the status, and the JSON or the text.

    :param more: headers beside the content type.
    """
    home = exchange.directory / province
    context = ssl.create_default_context(cafile=home / "authority.pem")
    context.load_cert_chain(home / f"{who}.pem", home / f"{who}-key.pem")
    context.check_hostname = False  # by its address; the certificate's name is the node's
    host, port = exchange.addresses[province].split(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
    with contextlib.closing(connection):
        connection.putrequest("POST", path)
        for name, value in (("Content-Type", content), ("Content-Length", len(data)), *more):
            connection.putheader(name, value)
        connection.endheaders(data.encode())
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    spoken = answer.headers["content-type"] == "application/json"
    return answer.status, json.loads(text) if spoken else text


def asked(document):
    """The JSON of a Recognize."""
    number = {"type": "DOCUMENT_TYPE_RESIDENT_ID", "number": document.number}
    return json.dumps({"document": number, "purpose": "PURPOSE_ENTRY_CHECK"})
