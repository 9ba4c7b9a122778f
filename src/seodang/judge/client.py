"""One judge behind an OpenAI-compatible endpoint: a request that fails is sent again, and its rate limit is respected.

`serve/verify` has a client of its own, which asks for more than answers and never twice; this one asks for short
replies, some hundreds of them, of servers that refuse some for a while.
"""

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from seodang.errors import SeodangError, first_line
from seodang.judge.reply_cache import Reply, ReplyCache, request_key
from seodang.optional_packages import install_command

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 6  # of one request
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two attempts, doubled each time
LONGEST_RETRY_AFTER = 900.0  # seconds that a server may ask to wait
FAILED_IN_A_ROW = 3  # requests after which the server itself is at fault
TIMEOUT_SECONDS, CONNECT_SECONDS = 600.0, 20.0
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})  # statuses that may pass
STOP = {  # status → hint
    401: "set the environment variable that judge.api_key_env names",
    402: "the account behind the key has no credit",
    403: "the key does not allow this model",
    404: "check judge.url and judge.model; the path /v1/chat/completions is added to the address",
}
_CONTINUE = "run the command again, without --no-cache, to continue: what was judged is kept"


class JudgeError(SeodangError):
    """The judge cannot be reached, or refuses what it is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A request without a reply; others may have one."""

    what: str


@dataclass(kw_only=True, slots=True)
class Traffic:
    """What went to and fro; prompts of cached replies were sent earlier."""

    requests: int = 0  # that were answered by the server
    cached: int = 0  # that were answered from the cache
    repeated: int = 0  # attempts that failed and were made again
    prompt_tokens: int = 0  # as the server counts them; 0: it does not
    reply_tokens: int = 0


class Client:
    """Asks a judge; a context manager.

    Args:
        url: with or without /v1.
        api_key: sent as a header and never written.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None,
        max_tokens: int,
        cache: ReplyCache,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.traffic = Traffic()
        self._url = endpoint(url)
        self._model, self._max_tokens, self._cache, self._sleep = model, max_tokens, cache, sleep
        self._key = checked_key(api_key, where="judge.api_key_env")
        self._failed = 0  # requests in a row
        self._http = _open(self._key, url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def reply(self, prompt: str) -> Reply | Failure:
        """What the judge replies to one message, at temperature 0.

        Raises:
            JudgeError: it cannot be reached, refuses the key or the model, or fails again and again.
        """
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        key = request_key(self._url, body)
        if known := self._cache.get(key):
            self.traffic.cached += 1
            return known
        found = self._ask(body)
        if isinstance(found, Failure):
            self._failed += 1
            if self._failed >= FAILED_IN_A_ROW:
                what = f"{self._failed} requests in a row failed: {found.what}"
                raise JudgeError(what, where=self._url, hint=f"see the server's log; {_CONTINUE}")
            return found
        self._failed = 0
        self.traffic.requests += 1
        self.traffic.prompt_tokens += found.prompt_tokens or 0
        self.traffic.reply_tokens += found.reply_tokens or 0
        self._cache.add(key, found)
        return found

    def _ask(self, body: Mapping[str, Any]) -> Reply | Failure:
        """Attempt after attempt, until there is a reply, or none can be expected."""
        import httpx

        what = ""
        for attempt in range(ATTEMPTS):
            asked_to_wait = None
            try:
                answer = self._http.post(self._url, json=body)
            except httpx.TransportError as error:
                what = f"cannot be reached: {self._masked(first_line(error))}"
            else:
                if answer.is_success:
                    return self._read(answer)
                if answer.has_redirect_location:
                    what = f"the server redirects to {answer.headers['Location']}, where nothing was sent"
                    hint = f"if you trust that server, set judge.url to its address; {_CONTINUE}"
                    raise JudgeError(what, where=self._url, hint=hint)
                what = f"status {answer.status_code}: {self._masked(answer.text)[:300]}"
                if answer.status_code in STOP:
                    raise JudgeError(what, where=self._url, hint=f"{STOP[answer.status_code]}; {_CONTINUE}")
                if answer.status_code not in AGAIN:
                    return Failure(what=what)
                asked_to_wait = retry_after(answer.headers.get("Retry-After"))
            if asked_to_wait is not None and asked_to_wait > LONGEST_RETRY_AFTER:
                wait = f"the server asks to wait {asked_to_wait:,.0f} seconds"
                raise JudgeError(f"{wait} ({what})", where=self._url, hint=f"later, {_CONTINUE}")
            if attempt + 1 < ATTEMPTS:
                self.traffic.repeated += 1
                self._sleep(asked_to_wait if asked_to_wait is not None else _wait(attempt))
        if what.startswith(("cannot be reached", "status 429")):
            raise JudgeError(f"{what} ({ATTEMPTS} attempts)", where=self._url, hint=_CONTINUE)
        return Failure(what=what)

    def _read(self, answer: "httpx.Response") -> Reply:
        try:
            found = answer.json()
            choice, usage = found["choices"][0], found.get("usage") or {}
            return Reply(
                text=choice["message"].get("content") or "",
                finished=choice.get("finish_reason") != "length",
                prompt_tokens=usage.get("prompt_tokens"),
                reply_tokens=usage.get("completion_tokens"),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            what = f"expected a chat completion, got {self._masked(answer.text)[:200]}"
            hint = "give the address of an OpenAI-compatible server"
            raise JudgeError(what, where=self._url, hint=hint) from None

    def _masked(self, text: str) -> str:
        """A server's words without the key, should they hold it."""
        return text.replace(self._key, "…") if self._key else text


def endpoint(url: str) -> str:
    """The address that requests go to."""
    return f"{url.rstrip('/').removesuffix('/chat/completions').removesuffix('/v1')}/v1/chat/completions"


def retry_after(header: str | None) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, 10.2.3): a number, or a date; None: neither."""
    if header is None:
        return None
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", header):
        return float(header)
    try:
        wait: float = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        return max(0.0, wait)
    except (ValueError, TypeError):
        return None


def _wait(attempt: int) -> float:
    """Seconds, half of them by chance, so that several clients do not come back together."""
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)
    return longest * (0.5 + 0.5 * random.random())


def is_local(url: str) -> bool:
    """Whether an address is this machine's own, so that nothing leaves it."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host == "::1" or re.fullmatch(r"127(\.\d+){3}", host) is not None


def checked_key(key: str | None, *, where: str) -> str | None:
    """The key without white space around it; a message never shows it.

    Raises:
        SeodangError: a header cannot hold it.
    """
    stripped = (key or "").strip()
    if stripped and not (stripped.isascii() and stripped.isprintable() and " " not in stripped):
        what = "the API key holds a blank, a line break or a character that a header cannot hold"
        raise SeodangError(what, where=where, hint="set the variable to the key alone")
    return stripped or None


def _open(key: str | None, url: str) -> "httpx.Client":
    try:
        import httpx
    except ImportError:
        raise JudgeError("a judge needs httpx", where="judge", hint=install_command("judge")) from None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS)
    return httpx.Client(headers=headers, timeout=timeout, trust_env=not is_local(url))  # no proxy to this machine
