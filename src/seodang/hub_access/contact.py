"""The first question to the hub, before transformers or datasets fetch anything: may this be read from here?

One short request. The libraries' own retries take half a minute for each file of a hub that does not answer; where it
does not, they are put into their offline mode instead, in which they read what was downloaded earlier.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from seodang.errors import HubError, first_line
from seodang.hub_access.refusals import OFFLINE, Kind, is_busy, is_unheard, refused, status_of, unreachable
from seodang.user_paths import expanded

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?", re.ASCII)  # OWNER/NAME, or NAME
ASK_SECONDS = 5  # until the hub has to answer; HF_HUB_ETAG_TIMEOUT overrides it
RETRY_SECONDS = 1.0  # before a request that failed is sent once more
BELIEVED_SECONDS = 60  # how long a hub that did not answer is not asked again
MODEL_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")  # one of them is in every copy of a model
RETRIES = "huggingface_hub.utils._http"  # the logger that counts them


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outage:
    reason: str
    since: float  # of time.monotonic


_outage: _Outage | None = None  # of which this process knows; offline mode is on meanwhile
_readable: set[tuple[str, Kind, str, str | None]] = set()  # what the hub was asked for, and lets this user read


def require(hub_id: str, kind: Kind, *, revision: str | None = None, instead: str) -> None:
    """Check that a model or data set can be read: from the hub, or, where that cannot be reached, from its cache here.

    Args:
        hub_id: OWNER/NAME, or NAME.
        revision: branch, tag or commit.
        instead: what to do without the hub, for the hint: `repeat the command with model.path=/path/to/folder`.

    Raises:
        HubError: it cannot; says why and what to do.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    _believe_for_a_while()
    asked = (constants.ENDPOINT, kind, hub_id, revision)
    if not constants.is_offline_mode():
        if asked in _readable:
            return
        try:
            with suppress(EntryNotFoundError):  # the repository is there, and may hold other files
                _ask(hub_id, kind, revision)
        except Exception as error:  # of an HTTP library, which differs between versions of the hub's client
            found = refused(error, hub_id, kind, revision=revision, instead=instead)
            if found and not (is_busy(error) and has_copy(hub_id, kind, revision)):
                raise found from None
            heard = f"it answers with HTTP {status_of(error)}" if found else first_line(error)
            _go_offline(re.sub(r"^\[Errno -?\d+\] ", "", heard))
        else:
            _readable.add(asked)
            return
    if not has_copy(hub_id, kind, revision):
        raise unreachable(why_offline() or "", hub_id, kind, instead=instead)


def explained(
    error: Exception, hub_id: str, kind: Kind, *, revision: str | None = None, instead: str
) -> HubError | None:
    """The error for what transformers or datasets raised later, while they read; None: it is not about the hub.

    Args:
        instead: what to do without the hub.
    """
    if is_unheard(error):
        reason = why_offline() or "it stopped answering"
        return unreachable(reason, hub_id, kind, has_part=has_copy(hub_id, kind, revision), instead=instead)
    return refused(error, hub_id, kind, revision=revision, instead=instead)


def why_offline() -> str | None:
    """Why the hub is not asked, in words; None: it is."""
    from huggingface_hub import constants

    if not constants.is_offline_mode():
        return None
    return why_outage() or f"{OFFLINE} is set"


def why_outage() -> str | None:
    """Why a hub that was asked did not answer, in words; None: it did, or was not asked."""
    if _outage is None:
        return None
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}: {_outage.reason}"


def has_copy(hub_id: str, kind: Kind, revision: str | None = None) -> bool:
    """Whether a copy was downloaded earlier, from which transformers or datasets read in their offline mode."""
    from huggingface_hub import constants, try_to_load_from_cache

    if kind == "model":
        found = (try_to_load_from_cache(hub_id, name, revision=revision) for name in MODEL_FILES)
        return any(isinstance(path, str) for path in found)
    folder = expanded(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    wanted = _folded(hub_id.replace("/", "___"))  # datasets writes KoAlpaca-RealQA as ko_alpaca-real_qa
    return any(
        _folded(one.name) == wanted and any(one.glob("*/*/*")) for one in (folder.iterdir() if folder.is_dir() else ())
    )


@contextmanager
def quiet_retries() -> Iterator[None]:
    """Inside, the hub's client retries without a line for each try; that it has to wait for minutes is still shown."""
    logger = logging.getLogger(RETRIES)
    logger.addFilter(_is_a_long_wait)
    try:
        yield
    finally:
        logger.removeFilter(_is_a_long_wait)


def _is_a_long_wait(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING or record.getMessage().startswith("Rate limited")


def _ask(hub_id: str, kind: Kind, revision: str | None) -> None:
    """One request for the file that transformers or datasets ask for first, without its content.

    Raises:
        HfHubHTTPError: the hub answers otherwise than with the file.
        Exception: it does not answer.
    """
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    name = "config.json" if kind == "model" else f"{hub_id.rpartition('/')[2]}.py"  # anyone may read a README
    url = hf_hub_url(hub_id, name, repo_type=kind, revision=revision, endpoint=constants.ENDPOINT)
    seconds = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else ASK_SECONDS
    with quiet_retries():
        for is_last in (False, True):
            try:
                answer = get_session().head(
                    url, headers=build_hf_headers(library_name="seodang"), timeout=seconds, follow_redirects=False
                )
                hf_raise_for_status(answer)
            except Exception as error:
                if is_last or "Timeout" in type(error).__name__ or not is_busy(error, or_unheard=True):
                    raise
                time.sleep(RETRY_SECONDS)
            else:
                return


def _go_offline(reason: str) -> None:
    """Put the hub's client, transformers, datasets and child processes into offline mode."""
    global _outage
    _outage = _Outage(reason=reason, since=time.monotonic())
    _set_offline(True)


def _believe_for_a_while() -> None:
    """Ask again, after a while, a hub that did not answer: a network comes back while a notebook runs."""
    global _outage
    if _outage and time.monotonic() - _outage.since > BELIEVED_SECONDS:
        _outage = None
        _set_offline(False)


def _set_offline(offline: bool) -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = offline
    if offline:
        os.environ[OFFLINE] = "1"
    else:
        os.environ.pop(OFFLINE, None)
    if "datasets" in sys.modules:
        import datasets

        datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = offline


def _folded(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.casefold())
