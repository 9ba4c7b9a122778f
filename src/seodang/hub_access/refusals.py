"""What the hub's client raises → one error: what is wrong, and what to do about it, with and without the hub."""

import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from seodang.errors import HubError

Kind = Literal["model", "dataset"]
LOGIN = "hf auth login"
OFFLINE = "HF_HUB_OFFLINE"
WORDS: Mapping[Kind, str] = MappingProxyType({"model": "model", "dataset": "data set"})


def unreachable(reason: str, hub_id: str, kind: Kind, *, has_part: bool = False, instead: str) -> HubError:
    """The error for what was not downloaded earlier, and a hub that does not answer.

    Args:
        reason: why it does not.
        has_part: some of its files were downloaded.
        instead: what to do without the hub.
    """
    copy = "only a part of it" if has_part else "no copy of it"
    what = f"the hub cannot be reached ({reason}), and {copy} was downloaded earlier"
    if kind == "model" and not has_part:
        what = f"no such folder here; {what}"
    unset = f" (unset {OFFLINE})" if reason.startswith(OFFLINE) else ""
    return HubError(what, where=hub_id, hint=f"go online{unset} to fetch {page(hub_id, kind)}, or {instead}")


def refused(
    error: BaseException, hub_id: str, kind: Kind, *, revision: str | None = None, instead: str
) -> HubError | None:
    """What the hub refuses; None: the error is not an answer of the hub.

    Args:
        error: as the hub's client raised it, or what another library made of it.
        instead: what to do without the hub.
    """
    from huggingface_hub import errors

    address = page(hub_id, kind)
    for link in _chain(error):
        match link:
            case errors.GatedRepoError():
                what, hint = _gated(link, address)
            case errors.RepositoryNotFoundError():
                what = f"the hub has no {WORDS[kind]} of this name, or it is private: the answer to both is the same"
                hint = f"check the name at {address}; if it is private, log in: {LOGIN}"
            case errors.RevisionNotFoundError():
                what, hint = f"has no revision {revision!r}", f"see the revisions at {address}/tree/main"
            case errors.DisabledRepoError():
                what, hint = "the hub has disabled it", f"see {address}"
            case errors.EntryNotFoundError():
                continue
            case errors.HfHubHTTPError():
                what, hint = _by_status(link)
            case _:
                continue
        return HubError(what, where=hub_id, hint=f"{hint}; or {instead}")
    return None


def is_busy(error: BaseException, *, or_unheard: bool = False) -> bool:
    """Whether the hub may answer a little later: it limits requests, or fails itself.

    Args:
        or_unheard: also where nothing was heard from it.
    """
    status = status_of(error)
    return or_unheard if status is None else status == 429 or status >= 500


def is_unheard(error: BaseException) -> bool:
    """Whether a file is not in the cache here, and the hub does not answer."""
    from huggingface_hub import errors

    return has(error, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)


def has(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether an error, or one that it was made of, is of one of these kinds."""
    return any(isinstance(link, kinds) for link in _chain(error))


def page(hub_id: str, kind: Kind) -> str:
    """The address for people."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{hub_id}"


def _gated(error: BaseException, address: str) -> tuple[str, str]:
    if status_of(error) == 403:
        return (
            "it is gated, and the login that is stored here may not read it",
            f"accept its conditions at {address} with the account of that login; some owners grant access only later",
        )
    return (
        "it is gated: whoever reads it has to accept its conditions first, and to be logged in",
        f"accept them at {address}, then log in: {LOGIN}",
    )


def _by_status(error: BaseException) -> tuple[str, str]:
    from huggingface_hub import constants

    status = status_of(error)
    if status == 401:
        unset = "unset HF_TOKEN, which goes before a login, or " if os.environ.get("HF_TOKEN") else ""
        return "the hub does not accept the login that is stored here", f"{unset}log in again: {LOGIN}"
    if status == 403:
        return "the hub does not let this login read it", f"log in with an account that may: {LOGIN}"
    if status == 429:
        wait = f"wait some minutes; who is logged in ({LOGIN}) may ask more often"
        return "the hub limits the number of requests, and this was one too many (HTTP 429)", wait
    hint = "try again later" if status is None or status >= 500 else f"check that {constants.ENDPOINT} is a hub"
    return f"the hub answers with HTTP {status}", hint


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error came with, if any."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link:
        yield link
        link = link.__cause__ or link.__context__
