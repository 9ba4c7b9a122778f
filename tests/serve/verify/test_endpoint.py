"""The client of `seodang verify` against a real server: where its key goes, and what a message shows of it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from local_server import QuietHandler, serving
from seodang.errors import SeodangError
from seodang.serve.engines import API_KEY
from seodang.serve.verify.endpoint import EndpointError, ask
from seodang.serve.verify.reference import Reference
from seodang.serve.verify.verify import verify

KEY = "sk-test-0123456789abcdefghij"
Answer = tuple[int, Mapping[str, str], str]  # status, headers, body


@contextmanager
def server(answers: Mapping[str, Answer]) -> Iterator[tuple[str, list[str | None]]]:
    """Its address, and the Authorization header of each request that it gets."""
    keys: list[str | None] = []

    class Handler(QuietHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            keys.append(self.headers.get("Authorization"))
            status, headers, text = answers.get(self.path, (200, {}, json.dumps({"path": self.path})))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

    with serving(Handler) as url:
        yield url, keys


@pytest.mark.parametrize("body", [None, {"messages": []}])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_server_is_not_followed(status: int, body: Mapping[str, object] | None) -> None:
    """Neither the key nor the question is sent there: one error says where it points, and what to do."""
    with (
        server({}) as (other, seen),
        server({"/v1/models": (status, {"Location": f"{other}/x"}, "")}) as (url, keys),
        pytest.raises(EndpointError, match=rf"redirects to {other}/x, where nothing was sent") as error,
    ):
        ask(f"{url}/v1/models", body, KEY)
    assert "give its address" in error.value.hint
    assert (keys, seen) == ([f"Bearer {KEY}"], [])


def test_a_redirect_on_the_same_server_is_followed() -> None:
    """As to the same path with a slash; the key is for that server."""
    with server({"/v1/models": (307, {"Location": "/v1/models/"}, "")}) as (url, keys):
        assert ask(f"{url}/v1/models", None, KEY) == {"path": "/v1/models/"}
    assert keys == [f"Bearer {KEY}"] * 2


def test_no_message_shows_the_key(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not if the server repeats it, and not if a header cannot hold it."""
    with server({"/x": (401, {}, f"wrong key {KEY}")}) as (url, _), pytest.raises(EndpointError) as error:
        ask(f"{url}/x", None, KEY)
    assert "wrong key …" in str(error.value)
    monkeypatch.setenv(API_KEY, f"{KEY}\n{KEY}")
    with pytest.raises(SeodangError, match="a blank, a line break") as broken:
        verify("http://127.0.0.1:1", reference.name)
    assert KEY not in f"{error.value}{broken.value}"
