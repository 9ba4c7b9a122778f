"""An OpenAI-compatible endpoint of any engine: what it reports of its prompts, answers and settings."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from seodang.errors import SeodangError
from seodang.judge.client import is_local

TIMEOUT_SECONDS = 600.0  # a long answer on a slow machine
TOP_LOGPROBS = 5
_OPENAI = "give the address of an OpenAI-compatible server"
Turns = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedToken:
    """One token of an answer, as the engine reports it."""

    text: str
    logprob: float  # nats
    likeliest: Mapping[str, float]  # text → nats, of the tokens that the engine finds likeliest there


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedReply:
    """One answer of the server."""

    text: str
    stopped: bool  # it ended by itself
    prompt_tokens: int | None
    tokens: tuple[ServedToken, ...] = ()  # empty: the engine gives no log-probabilities


class EndpointError(SeodangError):
    """The server refused a request, or cannot be reached."""


class _SameServer(urllib.request.HTTPRedirectHandler):
    """Follows a redirect of a GET on the same server alone: urllib would send the key on to any other."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        is_same = urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]  # scheme, and host with port
        return super().redirect_request(req, fp, code, msg, headers, newurl) if is_same and req.data is None else None


_DIRECT = urllib.request.build_opener(_SameServer, urllib.request.ProxyHandler({}))  # no proxy to this machine
_OPENER = urllib.request.build_opener(_SameServer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where to ask, and for which model."""

    url: str  # without /v1
    model: str
    api_key: str | None = None

    def reply(
        self, turns: Turns, *, tools: Sequence[Any] | None = None, max_tokens: int, **settings: Any
    ) -> ServedReply:
        """One answer.

        Raises:
            EndpointError: the server refuses the request or cannot be reached.
        """
        body = {"model": self.model, "messages": list(turns), "max_tokens": max_tokens, **settings}
        if tools:
            body["tools"] = list(tools)
        try:
            found = self._post("/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": TOP_LOGPROBS})
        except EndpointError:  # some servers refuse what they do not know, others leave it out
            found = self._post("/v1/chat/completions", body)
        return _reply(found, self.url)

    def prompt_ids(self, turns: Turns, tools: Sequence[Any] | None = None) -> list[int] | None:
        """Ids of the prompt that the server makes of a conversation; None: it does not show them."""
        request: dict[str, Any] = {"messages": list(turns), **({"tools": list(tools)} if tools else {})}
        vllm = self._try("/tokenize", {"model": self.model, **request, "add_generation_prompt": True})
        if vllm and isinstance(vllm.get("tokens"), list) and "count" in vllm:
            return [int(token) for token in vllm["tokens"]]
        rendered = self._try("/apply-template", request)  # llama.cpp
        if rendered and isinstance(rendered.get("prompt"), str):
            asked = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
            found = self._try("/tokenize", asked)
            return [int(token) for token in found["tokens"]] if found and "tokens" in found else None
        return None

    def properties(self) -> Mapping[str, Any]:
        """llama.cpp's settings; empty of others."""
        return self._try("/props") or {}

    def weights(self) -> str | None:
        """How the served weights are stored, where the engine reports it: llama.cpp's Q4_K, F16 …"""
        for model in (self._try("/v1/models") or {}).get("data") or ():
            kind = (model.get("meta") or {}).get("ftype")
            if model.get("id") == self.model and isinstance(kind, str):
                return kind
        return None

    def _try(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        try:
            found = self._post(path, body)
        except EndpointError:
            return None
        return found if isinstance(found, dict) else None

    def _post(self, path: str, body: Mapping[str, Any] | None) -> Any:
        return ask(self.url + path, body, self.api_key)


def open_endpoint(url: str, *, wanted: str | None, name: str, api_key: str | None) -> Endpoint:
    """The endpoint, and the model that is asked for.

    Args:
        wanted: the served name; None: the run's name if it is served, or the only model there is.
        name: of the run.

    Raises:
        SeodangError: it cannot be reached, or serves several models and none bears the run's name.
    """
    base = url.rstrip("/").removesuffix("/v1")
    if wanted is not None:
        return Endpoint(url=base, model=wanted, api_key=api_key)
    listed = ask(f"{base}/v1/models", None, api_key)
    names = [str(model.get("id")) for model in (listed.get("data") if isinstance(listed, dict) else None) or ()]
    if name in names or not names:
        return Endpoint(url=base, model=name, api_key=api_key)
    if len(names) == 1:
        return Endpoint(url=base, model=names[0], api_key=api_key)
    hint = f"choose one by --model NAME: {', '.join(names)}"
    raise SeodangError(f"serves {len(names)} models, none of them named {name}", where=url, hint=hint)


def ask(url: str, body: Mapping[str, Any] | None, api_key: str | None) -> Any:
    """JSON of a GET (without a body) or a POST.

    Raises:
        EndpointError: the server cannot be reached, refuses, or does not answer in JSON.
    """
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
    data = None if body is None else json.dumps(body).encode()
    try:
        opener = _DIRECT if is_local(url) else _OPENER
        with opener.open(urllib.request.Request(url, data, headers), timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if (target := error.headers.get("Location")) and 300 <= error.code < 400:
            what = f"the server redirects to {urljoin(error.url, target)}, where nothing was sent"
            raise EndpointError(what, where=url, hint="if you trust that server, give its address instead") from None
        text = error.read(2000).decode("utf-8", "replace")
        text = text.replace(api_key, "…") if api_key else text  # should the server repeat it
        hint = "set the environment variable SEODANG_API_KEY" if error.code in (401, 403) else "see the server's log"
        raise EndpointError(f"the server returned status {error.code}: {text}", where=url, hint=hint) from None
    except json.JSONDecodeError:
        raise EndpointError("expected JSON, got something else", where=url, hint=_OPENAI) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise EndpointError(f"cannot be reached: {reason}", where=url, hint="is the server running there?") from None


def _reply(found: Any, url: str) -> ServedReply:
    try:
        choice = found["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or ()
        return ServedReply(
            text=choice["message"].get("content") or "",
            stopped=choice.get("finish_reason") != "length",
            prompt_tokens=(found.get("usage") or {}).get("prompt_tokens"),
            tokens=tuple(map(_token, content)),
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        what = f"expected a chat completion, got {str(found)[:200]}"
        raise EndpointError(what, where=url, hint=_OPENAI) from None


def _token(found: Any) -> ServedToken:
    return ServedToken(
        text=str(found.get("token") or ""),
        logprob=float(found["logprob"]),
        likeliest={str(one["token"]): float(one["logprob"]) for one in found.get("top_logprobs") or ()},
    )
