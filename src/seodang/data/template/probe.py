"""Learns what a chat template writes around an answer by rendering a small conversation. Trusts no claim."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seodang.data.template.answer_sentinels import (
    OPEN_THINK,
    AnswerSpan,
    common_prefix,
    find_answers,
    insert_sentinels,
    remove_sentinels,
)
from seodang.data.template.jinja import Turn, compile_template, run
from seodang.errors import TemplateError

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedTokenizerBase

QUESTION, ANSWER, THOUGHT = "what is blue", "the sky is", "let me look up"  # " the" is one token nearly everywhere
CALL: Mapping[str, Any] = {
    "type": "function",
    "id": "call00001",  # nine letters and digits, as Mistral's templates want it
    "function": {"name": "look_up", "arguments": {"word": "blue"}},
}
TOOL: Mapping[str, Any] = {  # of another name than the call, so that it is not taken for it
    "type": "function",
    "function": {
        "name": "find_word",
        "description": "finds a word",
        "parameters": {"type": "object", "properties": {"word": {"type": "string", "description": "the word"}}},
    },
}
OTHER_HINT = "choose another template (built-in: gemma, llama3, qwen3, chatml, exaone4, exaone3, solar_open, plain)"
MOST_CHARACTERS = 200_000  # of the small conversation; the longest templates write some 20,000
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_LOOKS_SPECIAL = re.compile(
    r"<\|[^|<>\s]{1,60}\|>|<｜[^｜<>\s]{1,60}｜>|</?[A-Za-z_]\w{0,60}>|\[/?[A-Z_]{2,60}\]|\[\|\w{1,60}\|\]"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What one small conversation shows of a template."""

    text: str  # the whole conversation as rendered
    prompt: str  # the same without the answer, as served
    header: str  # what the generation prompt adds, without an empty think block
    turn_end: str
    call_end: str  # of a turn that ends in a tool call, where it is another token
    markers: tuple[str, ...]  # every control token in `text`, each once


def probe(
    text: str,
    variables: Mapping[str, Any],
    *,
    where: str,
    donor: "PreTrainedTokenizerBase | None",
    system: str | None,
    thinking: bool,
) -> Probe:
    """Render a question and an answer, and read off header, turn end and markers.

    Args:
        text: the template.
        variables: what it is rendered with: special tokens and extra settings.
        where: the template's name for people.
        donor: tokenizer that the template was written for; none: markers are known by their looks.
        system: the recipe's system text.
        thinking: the data holds thoughts.

    Raises:
        TemplateError: it refuses the conversation, or what is served is not what would be trained.
    """
    template = compile_template(text, where=where)
    asked: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    if system is not None:
        asked.insert(0, {"role": "system", "content": system})
    try:
        answered = [
            *asked,
            _answer(template, asked, variables) if thinking else {"role": "assistant", "content": ANSWER},
        ]
        full = run(template, answered, variables=variables)
        _check_size(full)
        with_sentinels = run(template, insert_sentinels(answered), variables=variables)
        prompt = run(template, asked, variables=variables, add_generation_prompt=True)
        unprompted = run(template, asked, variables=variables)
    except TemplateError as error:
        hint = OTHER_HINT if system is None else f"leave `system` out, or {OTHER_HINT}"
        raise TemplateError(error.what, where=where, hint=hint) from None
    turn = _only_answer(full, with_sentinels, where)
    for what, content in (("question", QUESTION), ("system text", system), ("thought", THOUGHT if thinking else None)):
        if content is not None and content.strip() not in full:
            raise TemplateError(f"the template leaves out the {what}", where=where, hint=OTHER_HINT)
    header = OPEN_THINK.sub("", prompt[common_prefix(prompt, unprompted) :])
    _check_prompt(full, prompt, header, turn, where)
    markers = control_tokens(full, donor, contents=(answered[-1]["content"], QUESTION, system or ""))
    turn_end = _turn_end(full[turn.end :], [*markers, str(variables.get("eos_token") or "")], where)
    try:
        call_end = _call_end(template, asked, variables, turn_end, donor)
    except TemplateError as error:
        raise TemplateError(error.what, where=where, hint=OTHER_HINT) from None
    return Probe(
        text=full,
        prompt=prompt,
        header=header,
        turn_end=turn_end,
        call_end=call_end,
        markers=tuple(dict.fromkeys([*markers, turn_end, *filter(None, [call_end])])),
    )


def _call_end(
    template: "Template",
    asked: Sequence[Turn],
    variables: Mapping[str, Any],
    turn_end: str,
    donor: "PreTrainedTokenizerBase | None",
) -> str:
    """The control token that ends a tool call; blank if it is the turn end, or the template has no calls.

    Rendered with tools too: some templates know calls only then, and what a template takes then is bounded as well.

    Raises:
        TemplateError: it takes too much for a small conversation.
    """
    called = [*asked, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    texts = [_small(template, called, tools, variables).rstrip() for tools in (None, [TOOL])]
    text = next((text for text in texts if CALL["function"]["name"] in text), "")
    if not text or text.endswith(turn_end):
        return ""
    special = [str(token.content) for token in donor.added_tokens_decoder.values() if token.special] if donor else []
    names = special if donor else _LOOKS_SPECIAL.findall(text)
    return max((name for name in names if text.endswith(name) and not name.startswith("</")), key=len, default="")


def _small(
    template: "Template", turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None, variables: Mapping[str, Any]
) -> str:
    """A small conversation as rendered; blank if the template refuses it.

    Raises:
        TemplateError: it takes too much.
    """
    try:
        text = run(template, turns, tools, variables=variables)
    except TemplateError as error:
        if isinstance(error.__cause__, MemoryError | RecursionError):
            raise
        return ""
    _check_size(text)
    return text


def _check_size(full: str) -> None:
    if len(full) > MOST_CHARACTERS:
        raise TemplateError(f"the template writes {len(full):,} characters for a small conversation")
    if _HALF_PAIR.search(full):
        raise TemplateError("the template writes half of a surrogate pair")


def _answer(template: "Template", asked: Sequence[Turn], variables: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with a thought in the form that the template renders: a field of its own, or inside the content."""
    apart = {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}
    inside = {"role": "assistant", "content": f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"}
    return apart if THOUGHT in run(template, [*asked, apart], variables=variables) else inside


def _only_answer(full: str, with_sentinels: str, where: str) -> AnswerSpan:
    plain, sentinels = remove_sentinels(with_sentinels)
    turns = find_answers(sentinels, full) if plain == full else []
    if len(turns) != 1:
        raise TemplateError("the template leaves out or changes the answer", where=where, hint=OTHER_HINT)
    return turns[0]


def _check_prompt(full: str, prompt: str, header: str, turn: AnswerSpan, where: str) -> None:
    """What is served must be the beginning of what is trained, up to the answer."""
    if not full.startswith(prompt):
        common = common_prefix(full, prompt)
        raise TemplateError(
            f"the served prompt goes on {prompt[common : common + 60]!r} where the trained text has "
            f"{full[common : common + 60]!r}",
            where=where,
            hint=OTHER_HINT,
        )
    missing = full[len(prompt) : turn.start]
    if not header.strip() and OPEN_THINK.sub("", missing).strip():
        raise TemplateError(
            f"the template ignores add_generation_prompt: served prompts would lack {missing!r}",
            where=where,
            hint="write the assistant's header where add_generation_prompt is true",
        )


def control_tokens(text: str, donor: "PreTrainedTokenizerBase | None", *, contents: Sequence[str] = ()) -> list[str]:
    """The control tokens of a text, each once, in their order.

    Args:
        donor: tokenizer that the template was written for; none: they are known by their looks.
        contents: texts in which none is looked for.
    """
    for content in filter(None, contents):
        text = text.replace(content, " ")
    if donor is None:
        return list(dict.fromkeys(_LOOKS_SPECIAL.findall(text)))
    added = donor.added_tokens_decoder
    ids = donor(text, add_special_tokens=False)["input_ids"]
    names = [str(added[token].content) for token in dict.fromkeys(ids) if token in added]
    return [name for name in names if name.strip()]


def _turn_end(tail: str, candidates: Sequence[str], where: str) -> str:
    found = [name for name in candidates if name and tail.lstrip().startswith(name)]
    if not found:
        what = f"text that is not a control token: {tail[:40]!r}" if tail.strip() else "nothing"
        raise TemplateError(
            f"after the last answer the template writes {what}; the model would not learn to stop",
            where=where,
            hint=f"add the turn-end token after the answer in the template, or {OTHER_HINT}",
        )
    return max(found, key=len)
