"""Judges behind a real HTTP server in this process, each by one rule, so that what a judge does is known."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from local_server import QuietHandler, serving

Rule = Callable[["Asked"], str]
Refusal = tuple[int, dict[str, str], str]  # status, headers, body


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a judge is asked, read from the prompt."""

    prompt: str
    question: str
    reference: str | None
    a: str
    b: str


@dataclass
class Server:
    """A server with its rule; `refuse` may answer a request (by its number, from 1) otherwise."""

    rule: Rule
    refuse: Callable[[int, Asked], Refusal | None] = lambda number, asked: None
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)  # Authorization headers


def by_reference(asked: Asked) -> str:
    """The answer that is more like the reference; a tie where they are equally like it."""
    a, b = likeness(asked, asked.a), likeness(asked, asked.b)
    return "T" if abs(a - b) < 1e-9 else "A" if a > b else "B"


def likeness(asked: Asked, text: str) -> float:
    """To the reference, 0 to 1."""
    assert asked.reference is not None, "nothing to judge by"
    return SequenceMatcher(None, asked.reference, text, autojunk=False).ratio()


def always_first(asked: Asked) -> str:
    return "A"


def always_second(asked: Asked) -> str:
    return "B"


def longer(asked: Asked) -> str:
    return "T" if len(asked.a) == len(asked.b) else "A" if len(asked.a) > len(asked.b) else "B"


def nonsense(asked: Asked) -> str:
    return "Both answers are interesting. Consider the moon."


def every_third(number: int, asked: Asked) -> Refusal | None:
    """Every third request fails, whatever it is; sent again, it mostly passes."""
    return (503, {}, "overloaded") if number % 3 == 0 else None


@contextmanager
def judge_server(rule: Rule, **settings: Any) -> Iterator[Server]:
    """A judge on a free port."""
    served = Server(rule=rule, **settings)

    class Handler(QuietHandler):
        wbufsize = -1  # head and body in one packet: else each reply waits for the client's delayed acknowledgement

        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.requests.append(body)
            served.keys.append(self.headers.get("Authorization"))
            asked = read_prompt(body["messages"][-1]["content"])
            if self.path != "/v1/chat/completions":
                self._answer(404, {}, "no such path")
            elif refused := served.refuse(len(served.requests), asked):
                self._answer(*refused)
            else:
                self._answer(200, {}, json.dumps(_completion(served.rule(asked))))

        def _answer(self, status: int, headers: dict[str, str], text: str) -> None:
            content = text.encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    with serving(Handler) as served.url:
        yield served


def read_prompt(prompt: str) -> Asked:
    """The texts between a prompt's tags."""
    tags = r"<(question|reference_answer|answer_A|answer_B)(\d*)>\n(.*?)\n</\1\2>"
    texts = {tag: text for tag, _, text in re.findall(tags, prompt, re.DOTALL)}
    return Asked(
        prompt=prompt,
        question=texts["question"],
        reference=texts.get("reference_answer"),
        a=texts["answer_A"],
        b=texts["answer_B"],
    )


def prompts_of(served: Server) -> Sequence[str]:
    return [body["messages"][-1]["content"] for body in served.requests]


def _completion(text: str) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101},
    }
