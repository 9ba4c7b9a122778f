"""The user's cache and home folder, also where there is none."""

import pwd
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from seodang.errors import ResourceError, SeodangError
from seodang.serve.chat_model import load_chat_model
from seodang.show.crash_log import write_crash_log
from seodang.user_paths import cache_folder, expanded


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the machine does not know, as in a container that is started with a uid of its own."""

    def unknown(_: object) -> NoReturn:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "SEODANG_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_the_cache_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a home folder the error names the variable that helps; with it, nothing else is needed."""
    with pytest.raises(ResourceError, match=r"no home folder\n.*SEODANG_CACHE"):
        cache_folder()
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_a_fault_is_still_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The log of a fault goes among temporary files; without these either, nothing fails."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    written = write_crash_log(ValueError("x"))
    assert written
    assert written.parent == tmp_path

    def none_usable() -> NoReturn:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    assert write_crash_log(ValueError("x")) is None


def test_the_home_folder_of_nobody() -> None:
    """A name after ~ that no user has is a path like another: it is reported as missing."""
    assert expanded("~no_such_user/model") == Path("~no_such_user/model")
    with pytest.raises(SeodangError, match="no_such_user"):
        load_chat_model("~no_such_user/model")
