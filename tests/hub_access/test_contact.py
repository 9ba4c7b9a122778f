"""The hub is asked once and briefly; each of its answers is one error, and without it the copies here are used."""

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from hub_reads import READER, ReadableHub, serve_reads
from seodang.errors import HubError, SourceError
from seodang.hub_access import contact
from seodang.hub_access.refusals import Kind
from seodang.model.load import load_tokenizer
from seodang.recipe import Source


@pytest.fixture(scope="module")
def server() -> Iterator[ReadableHub]:
    """A hub on the loopback device, shared by the tests."""
    with serve_reads() as hub:
        hub.files = {"me/tiny": {"config.json": b"{}"}, "datasets/me/med": {"README.md": b"# med\n"}}
        yield hub


@pytest.fixture
def hub(server: ReadableHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ReadableHub]:
    """The same, as the hub's client meets it, with an empty cache and nobody logged in."""
    server.status, server.gated = 200, set()
    server.requests.clear()
    point_to(server.address, monkeypatch, tmp_path)
    yield server
    close_session()


def point_to(address: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let the hub's client ask another address, with a home of its own."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "login"))
    monkeypatch.setattr(contact, "_outage", None)
    monkeypatch.setattr(contact, "_readable", set())
    monkeypatch.setattr(contact, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    if "datasets" in sys.modules:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.setattr(f"datasets.config.{name}", False)
    close_session()


def refused(hub_id: str, kind: Kind, *, revision: str | None = None) -> HubError:
    with pytest.raises(HubError) as caught:
        contact.require(hub_id, kind, revision=revision, instead="INSTEAD")
    assert caught.value.hint.endswith("or INSTEAD")
    return caught.value


def test_what_may_be_read_is_asked_for_once(hub: ReadableHub) -> None:
    """One request for a model and one for a data set, whose first file need not be there."""
    for _ in range(2):
        contact.require("me/tiny", "model", instead="")
        contact.require("me/med", "dataset", instead="")
    asked = [request for request in hub.requests if request.startswith("HEAD")]
    assert asked == ["HEAD /me/tiny/resolve/main/config.json", "HEAD /datasets/me/med/resolve/main/med.py"]


@pytest.mark.parametrize(("kind", "hub_id", "prefix"), [("model", "me/tiny", ""), ("dataset", "me/med", "datasets/")])
def test_gated(
    kind: Kind, hub_id: str, prefix: str, hub: ReadableHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Gated models and data sets are called gated, with the page; whether a login is missing or not enough is told."""
    hub.gated = {prefix + hub_id}
    error = refused(hub_id, kind)
    assert error.what.startswith("it is gated: ")
    assert f"accept them at {hub.address}/{prefix}{hub_id}, then log in: hf auth login; or" in error.hint
    monkeypatch.setenv("HF_TOKEN", READER)
    error = refused(hub_id, kind)
    assert "the login that is stored here may not read it" in error.what
    assert f"{hub.address}/{prefix}{hub_id} with the account of that login" in error.hint


def test_missing_and_private_are_the_same_answer(hub: ReadableHub) -> None:
    """The hub does not say which of the two it is, and neither do we; a missing revision is named."""
    assert "has no model of this name, or it is private" in refused("me/none", "model").what
    error = refused("me/none", "dataset")
    assert "has no data set of this name, or it is private" in error.what
    assert f"{hub.address}/datasets/me/none; if it is private, log in" in error.hint
    assert "no revision 'v9'" in refused("me/tiny", "model", revision="v9").what


def test_a_busy_hub_is_asked_twice(hub: ReadableHub) -> None:
    """Too many requests, and errors of the hub's own, end after two requests; other answers after one."""
    for status, what, count in (
        (429, "limits the number of requests", 2),
        (500, "answers with HTTP 500", 2),
        (503, "answers with HTTP 503", 2),
        (418, "answers with HTTP 418", 1),
    ):
        hub.status = status
        hub.requests.clear()
        assert what in refused("me/tiny", "model").what
        assert len([request for request in hub.requests if request.startswith("HEAD")]) == count
    assert constants.is_offline_mode() is False


def test_a_login_that_the_hub_does_not_know(hub: ReadableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that has expired is not taken for a missing repository."""
    monkeypatch.setenv("HF_TOKEN", READER)
    hub.status = 401
    error = refused("me/tiny", "model")
    assert error.what == "the hub does not accept the login that is stored here"
    assert "unset HF_TOKEN" in error.hint


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nobody listens: one error with what was tried; nobody is asked again, and no retry is printed."""
    point_to("http://127.0.0.1:9", monkeypatch, tmp_path)
    error = refused("me/tiny", "model")
    assert "the hub cannot be reached (http://127.0.0.1:9: Connection refused)" in error.what
    assert "go online to fetch http://127.0.0.1:9/me/tiny" in error.hint
    assert constants.is_offline_mode()
    assert "Connection refused" in refused("me/med", "dataset").what
    with pytest.raises(HubError, match="Connection refused"):
        load_tokenizer("me/tiny")
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_never_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A connection that stays silent is given up after the time that a hub has to answer, without a second try."""
    tried = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch, tmp_path)
        monkeypatch.setattr(contact, "ASK_SECONDS", 0.05)
        monkeypatch.setattr(contact.time, "sleep", tried.append)
        assert "the hub cannot be reached" in refused("me/tiny", "model").what
    assert not tried


def test_a_copy_is_used_without_a_network(
    hub: ReadableHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Path
) -> None:
    """What was downloaded is read when the hub is gone or busy; when it is back after a while it is asked again."""
    monkeypatch.setitem(hub.files, "me/tiny", {path.name: path.read_bytes() for path in tiny_folder.iterdir()})
    before = load_tokenizer("me/tiny")
    for address, why in (("http://127.0.0.1:9", "Connection refused"), (hub.address, "it answers with HTTP 429")):
        hub.status = 429
        point_to(address, monkeypatch, tmp_path)
        assert load_tokenizer("me/tiny").get_vocab() == before.get_vocab()
        assert why in (contact.why_outage() or "")
        assert "no copy of it" in refused("me/other", "model").what
    hub.status = 200
    later = time.monotonic() + contact.BELIEVED_SECONDS + 1
    monkeypatch.setattr(contact.time, "monotonic", lambda: later)
    contact.require("me/med", "dataset", instead="")
    assert (contact.why_outage(), constants.is_offline_mode()) == (None, False)


def test_a_data_set_that_was_read_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache of `datasets` is looked through under the name that it gives a data set."""
    point_to("http://127.0.0.1:9", monkeypatch, tmp_path)
    (tmp_path / "datasets" / "beomi___ko_alpaca-real_qa" / "default" / "0.0.0" / "abc").mkdir(parents=True)
    contact.require("beomi/KoAlpaca-RealQA", "dataset", instead="")
    refused("beomi/KoAlpaca", "dataset")


def test_ids_are_checked_before_the_hub_is_asked(hub: ReadableHub) -> None:
    """What cannot be an id, and a folder that is not there, are reported without a request."""
    from seodang.data.read.containers.hub_dataset import find_dataset

    for wrong, what in (("csv", "file format"), ("a/b/c", "not a data set id"), ("./none", "no such folder")):
        with pytest.raises(SourceError, match=what):
            find_dataset(Source(name="s", role="domain", hub=wrong))
    assert not [request for request in hub.requests if request.startswith("HEAD")]
