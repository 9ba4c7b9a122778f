"""Does the server make the run's prompts of conversations? If not, which prompts does it make?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from seodang.data.template.find import BUILT_IN
from seodang.errors import TemplateError
from seodang.serve.verify.endpoint import Endpoint, EndpointError
from seodang.serve.verify.reference import Reference
from seodang.serve.verify.result import Cause, PromptCheck

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "find_drug",
        "description": "Finds a drug by its name.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}
_ASKED, _THEN = "감기약 종류 좀 알려주세요.", "Is it safe for children, and how often may it be taken?"
_SYSTEM = {"role": "system", "content": "Answer in one sentence. 짧게 답하세요."}
_TURNS = (
    {"role": "user", "content": _ASKED},
    {"role": "assistant", "content": "해열진통제와 종합감기약이 있습니다."},
    {"role": "user", "content": _THEN},
)
_CONVERSATIONS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "one question": _TURNS[:1],
    "another question": _TURNS[2:],
    "several turns": _TURNS,
    "a system text": (_SYSTEM, *_TURNS[:1]),
    "a system text, several turns": (_SYSTEM, *_TURNS),
}

Render = Callable[[Sequence[Mapping[str, Any]], Any], list[int]]  # turns and tools → ids


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptProbe:
    """A conversation that the run's template takes, and the prompt that is served for it."""

    name: str
    turns: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] | None
    ids: tuple[int, ...]  # by the run's template
    served_ids: tuple[int, ...] | None  # None: not shown; of a folder whose template refuses: empty
    served_tokens: int | None  # None: not reported, or refused

    def is_made_by(self, render: Render) -> bool:
        """Whether another rendering gives what is served."""
        try:
            ids = render(self.turns, self.tools)
        except TemplateError:
            return self.served_tokens is None
        return tuple(ids) == self.served_ids if self.served_ids is not None else len(ids) == self.served_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFindings:
    """What was found of the prompts."""

    checks: tuple[PromptCheck, ...]
    causes: tuple[Cause, ...]
    render: Render | None  # gives the served prompts; None: unknown
    notes: tuple[str, ...]


def check_prompts(reference: Reference, endpoint: Endpoint) -> PromptFindings:
    """Compare prompts of one and several turns, with and without system text and tools.

    Raises:
        EndpointError: the server does not answer the simplest question.
    """
    probes = [probe(reference, endpoint, name, turns, tools) for name, turns, tools in conversations(reference)]
    checks = tuple(map(prompt_check, probes))
    notes = _notes(probes)
    if all(check.is_same for check in checks):
        return PromptFindings(checks=checks, causes=(), render=reference.ids, notes=notes)
    known = [one for one in probes if one.served_tokens is not None]
    for cause, render in explanations(reference):
        if all(one.is_made_by(render) for one in known):
            return PromptFindings(checks=checks, causes=(cause,), render=render, notes=notes)
    return PromptFindings(checks=checks, causes=(_unexplained(probes),), render=None, notes=notes)


def conversations(reference: Reference) -> list[tuple[str, Sequence[Mapping[str, Any]], Sequence[Any] | None]]:
    """(name, turns, tools) of all conversations that the run's template takes."""
    found: list[tuple[str, Sequence[Mapping[str, Any]], Sequence[Any] | None]] = []
    for name, turns in _CONVERSATIONS.items():
        if _takes(reference, turns):
            found.append((name, turns, None))
    turns = _CONVERSATIONS["one question"]
    if reference.ids(turns, [TOOL]) != reference.ids(turns):  # others leave tools out without a word
        found.append(("a tool", turns, [TOOL]))
    return found


def probe(
    reference: Reference,
    endpoint: Endpoint,
    name: str,
    turns: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
) -> PromptProbe:
    """Ask the server what it makes of a conversation."""
    served_ids = endpoint.prompt_ids(turns, tools)
    tokens = len(served_ids) if served_ids is not None else None
    if tokens is None:
        try:
            tokens = endpoint.reply(turns, tools=tools, max_tokens=1, temperature=0).prompt_tokens
        except EndpointError:
            if len(turns) == 1 and not tools:
                raise
    return PromptProbe(
        name=name,
        turns=turns,
        tools=tools,
        ids=tuple(reference.ids(turns, tools)),
        served_ids=None if served_ids is None else tuple(served_ids),
        served_tokens=tokens,
    )


def explanations(reference: Reference) -> list[tuple[Cause, Render]]:
    """Known faults and the prompts that each would give, the likeliest first."""
    bos, found = reference.bos_id, list[tuple[Cause, Render]]()
    again = "serve the template of the run's model folder (chat_template.jinja)"

    def of(template: str | None, prefix: Sequence[int] = (), cut: int = 0) -> Render:
        return lambda turns, tools: [*prefix, *reference.ids(turns, tools, template=template)[cut:]]

    without = reference.template_without_system
    if without is not None:
        what = "conversations without a system turn are served without the system text that was trained"
        hint = f"{again}, which brings it; or send it as the first message of each request"
        found.append((Cause(name="missing system text", what=what, hint=hint), of(without)))
    if bos is not None and reference.ids(_TURNS[:1])[:1] == [bos]:
        what = "each prompt begins with the BOS token twice"
        hint = (
            "the template writes BOS itself: the engine must not add another (add_bos_token: false in GGUF and config)"
        )
        found.append((Cause(name="doubled BOS", what=what, hint=hint), of(None, [bos])))
        what = "each prompt lacks the BOS token that was trained"
        found.append((Cause(name="missing BOS", what=what, hint=again), of(None, (), 1)))
        if without is not None:
            what = "the system text that was trained is missing, and each prompt begins with the BOS token twice"
            found.append((Cause(name="doubled BOS", what=what, hint=again), of(without, [bos])))
    elif bos is not None:
        what = "each prompt begins with a BOS token that was not trained"
        hint = "the engine must not add BOS (add_bos_token: false in GGUF and tokenizer_config.json)"
        found.append((Cause(name="added BOS", what=what, hint=hint), of(None, [bos])))
    for name in BUILT_IN:
        text = files("seodang.templates").joinpath(f"{name}.jinja").read_text(encoding="utf-8")
        cause = Cause(name="another template", what=f"prompts are those of the template {name}", hint=again)
        found += [(cause, of(text))] + ([(cause, of(text, [bos])), (cause, of(text, (), 1))] if bos is not None else [])
    return found


def _takes(reference: Reference, turns: Sequence[Mapping[str, Any]]) -> bool:
    try:
        reference.ids(turns)
    except TemplateError:
        return False
    return True


def prompt_check(one: PromptProbe) -> PromptCheck:
    """One prompt of the result."""
    difference = None
    if one.served_ids is not None and one.served_ids != one.ids:
        pairs = enumerate(zip(one.ids, one.served_ids, strict=False))
        shorter = min(len(one.ids), len(one.served_ids))
        difference = next((place for place, (own, served) in pairs if own != served), shorter)
    return PromptCheck(
        name=one.name,
        expected_tokens=len(one.ids),
        served_tokens=one.served_tokens,
        first_difference=difference,
        is_same=difference is None and one.served_tokens in (None, len(one.ids)),
    )


def _notes(probes: Sequence[PromptProbe]) -> tuple[str, ...]:
    lost = [one.name for one in probes if one.served_tokens is None]
    if len(lost) == len(probes):
        return ("the server reports nothing about its prompts: they were not compared",)
    notes = [f"the server refuses these prompts or reports no token count: {', '.join(lost)}"] if lost else []
    if any(one.served_ids is None and one.served_tokens is not None for one in probes):
        notes.append("the server shows no token ids: prompts were compared by their number of tokens")
    return tuple(notes)


def _unexplained(probes: Sequence[PromptProbe]) -> Cause:
    """Prompts that no known fault gives: where markers are off, all differ alike; where texts are, by their length."""
    off = [one.served_tokens - len(one.ids) for one in probes if one.served_tokens is not None]
    first = next(
        one for one in probes if one.served_tokens not in (None, len(one.ids)) or one.served_ids not in (None, one.ids)
    )
    what = (
        f"prompts differ by {min(off)} to {max(off)} tokens ({first.name}: {first.served_tokens}, not {len(first.ids)})"
    )
    hint = "serve chat_template.jinja and tokenizer.json of the run's model folder"
    return Cause(name="another template", what=what, hint=hint)
