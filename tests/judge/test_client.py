"""The judge's client against a real server: what it sends again, how long it waits, what it keeps and never writes."""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from judge_server import Asked, Refusal, Server, always_first, judge_server
from seodang.errors import SeodangError
from seodang.judge.client import ATTEMPTS, Client, Failure, JudgeError, endpoint, is_local, retry_after
from seodang.judge.criteria import Wording
from seodang.judge.reply_cache import Reply, ReplyCache
from seodang.serve.server import free_port

PROMPT = Wording().prompt("What?", None, "one", "two")
KEY = "sk-test-0123456789abcdefghij"


@pytest.fixture
def served() -> Iterator[Server]:
    with judge_server(always_first) as server:
        yield server


def client(url: str, waits: list[float] | None = None, *, file: Path | None = None, key: str | None = None) -> Client:
    sleep = (waits if waits is not None else []).append
    return Client(url, "judge-1", api_key=key, max_tokens=16, cache=ReplyCache(file), sleep=sleep)


def refusing(first: int, status: int, headers: dict[str, str] | None = None) -> Callable[[int, Asked], Refusal | None]:
    """Of the first so many requests."""
    return lambda number, _: (status, headers or {}, "no") if number <= first else None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_what_may_pass_is_sent_again_with_longer_waits(served: Server, status: int) -> None:
    """Each wait is drawn from the upper half of a range that doubles."""
    served.refuse = refusing(3, status)
    waits: list[float] = []
    with client(served.url, waits) as asked:
        assert asked.reply(PROMPT) == Reply(text="A", finished=True, prompt_tokens=100, reply_tokens=1)
        assert (asked.traffic.requests, asked.traffic.repeated) == (1, 3)
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits, (1, 2, 4), strict=True))


def test_a_rate_limit_is_waited_for_as_the_server_asks(served: Server) -> None:
    """Retry-After in seconds or as a date decides the wait; one that is too long ends the command."""
    waits: list[float] = []
    served.refuse = refusing(1, 429, {"Retry-After": "7"})
    with client(served.url, waits) as asked:
        asked.reply(PROMPT)
        assert waits == [7]
        served.refuse = refusing(99, 429, {"Retry-After": "7200"})
        with pytest.raises(JudgeError, match="asks to wait 7,200 seconds") as error:
            asked.reply(f"{PROMPT} ")
    assert "continue" in error.value.hint
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (retry_after(soon) or 0) <= 30
    assert retry_after(format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)) == 0
    assert (retry_after(None), retry_after("soon"), retry_after("Wed, 99 Nov")) == (None, None, None)


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "api_key_env"), (402, "credit"), (403, "this model"), (404, "judge.url")]
)
def test_what_cannot_pass_stops_at_once(served: Server, status: int, hint: str) -> None:
    """A wrong key, model or address: one request, one error with its fix."""
    served.refuse = refusing(99, status)
    with client(served.url) as asked, pytest.raises(JudgeError, match=f"status {status}") as error:
        asked.reply(PROMPT)
    assert hint in error.value.hint
    assert len(served.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(served: Server, status: int) -> None:
    """Neither the key nor the questions reach the server that the judge's points to."""
    with judge_server(always_first) as other:
        served.refuse = refusing(99, status, {"Location": f"{other.url}/v1/chat/completions"})
        with (
            client(served.url, key=KEY) as asked,
            pytest.raises(JudgeError, match=rf"redirects to {other.url}") as error,
        ):
            asked.reply(PROMPT)
        assert "judge.url" in error.value.hint
        assert (len(served.requests), other.requests) == (1, [])


def test_a_request_that_is_refused_is_a_failure_and_three_in_a_row_an_error(served: Server) -> None:
    """One prompt may be too long; where all fail, the server is at fault."""
    served.refuse = refusing(99, 413)
    with client(served.url) as asked:
        assert asked.reply(PROMPT) == asked.reply(PROMPT) == Failure(what="status 413: no")
        with pytest.raises(JudgeError, match="3 requests in a row failed: status 413"):
            asked.reply(PROMPT)
    assert len(served.requests) == 3


def test_a_server_that_is_not_there_is_one_error() -> None:
    """After all attempts: what happened, and that nothing is lost."""
    waits: list[float] = []
    with (
        client(f"http://127.0.0.1:{free_port()}", waits) as asked,
        pytest.raises(JudgeError, match="cannot be reached"),
    ):
        asked.reply(PROMPT)
    assert len(waits) == ATTEMPTS - 1


def test_a_server_of_another_kind_is_one_error(served: Server) -> None:
    """A page that is no chat completion."""
    served.refuse = lambda number, _: (200, {}, "<html>hello</html>")
    with client(served.url) as asked, pytest.raises(JudgeError, match="expected a chat completion, got <html>"):
        asked.reply(PROMPT)


def test_the_key_goes_into_the_header_and_nowhere_else(
    served: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not into the cache, not into a log, and not into a message, even if the server repeats it."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "cache.jsonl"
    served.refuse = lambda number, _: (401, {}, f"wrong key {KEY}") if number == 2 else None
    with client(served.url, file=file, key=f" {KEY}\n") as asked:
        asked.reply(PROMPT)
        with pytest.raises(JudgeError) as error:
            asked.reply(PROMPT + " ")
    assert served.keys == [f"Bearer {KEY}"] * 2
    assert "wrong key …" in str(error.value)
    written = file.read_text() + caplog.text + "".join(capsys.readouterr()) + str(error.value)
    assert KEY not in written
    with pytest.raises(SeodangError, match="a blank, a line break") as error:
        client(served.url, key="sk-one\nsk-two")
    assert "sk-" not in str(error.value)


def test_a_reply_is_kept_by_what_was_asked(served: Server, tmp_path: Path) -> None:
    """The same request is sent once, also by another process; a line that a kill cut off is asked again."""
    file = tmp_path / "judge" / "cache.jsonl"
    for cached in (0, 1):
        with client(served.url, file=file) as asked:
            assert isinstance(asked.reply(PROMPT), Reply)
            assert asked.traffic.cached == cached
    file.write_text(file.read_text()[:-20])
    with client(served.url, file=file) as asked:
        asked.reply(PROMPT)
        asked.reply(PROMPT.replace("one", "three"))
        assert asked.traffic.cached == 0
    assert PROMPT not in file.read_text()
    assert len(served.requests) == 3


def test_addresses() -> None:
    """With and without /v1, one endpoint; which of them are this machine's own."""
    assert {endpoint(f"http://h:1{end}") for end in ("", "/", "/v1", "/v1/", "/v1/chat/completions")} == {
        "http://h:1/v1/chat/completions"
    }
    assert all(map(is_local, ("http://localhost:8000", "http://127.0.0.1:1/v1", "http://[::1]:80")))
    assert not any(map(is_local, ("https://api.example.com", "http://127.0.0.1.example.com", "http://10.0.0.1")))
