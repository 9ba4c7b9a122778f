"""Which answers of a conversation are supervised, as its turns say. Knows no template.

A turn with `supervised: false` is context only. A turn with `prefill` begins with a text that was given with the
question: what follows it is supervised.
"""

from collections.abc import Mapping, Sequence

from seodang.data.template.jinja import Turn
from seodang.errors import TemplateError

_KEYS = frozenset({"supervised", "prefill"})

Span = tuple[int, int]  # [start, end) in characters


def for_template(messages: Sequence[Turn]) -> list[Turn]:
    """The turns as a template gets them: without what they say about their loss."""
    return [
        turn if _KEYS.isdisjoint(turn) else {key: value for key, value in turn.items() if key not in _KEYS}
        for turn in messages
    ]


def has_loss(turn: Turn) -> bool:
    """Whether an answer is supervised."""
    return bool(turn.get("supervised", True))


def supervised(text: str, messages: Sequence[Turn], bodies: Mapping[int, Span]) -> dict[int, Span]:
    """What of each answer is supervised; answers without loss are left out.

    Args:
        bodies: answer → its characters of `text`.

    Raises:
        TemplateError: the template alters the given beginning of an answer.
    """
    return {
        number: (_after_prefill(text, messages[number], *body), body[1])
        for number, body in bodies.items()
        if has_loss(messages[number])
    }


def without_unsupervised(
    whole: Span, text: str, messages: Sequence[Turn], bodies: Mapping[int, Span]
) -> tuple[Span, ...]:
    """A part of the text without what of the answers in it is not supervised.

    Args:
        bodies: of all answers.

    Raises:
        TemplateError: the template alters the given beginning of an answer.
    """
    kept = supervised(text, messages, bodies)
    start, spans = whole[0], []
    for number, (body_start, body_end) in sorted(bodies.items()):
        spans.append((start, body_start))
        start = kept[number][0] if number in kept else body_end
    return tuple((begin, end) for begin, end in _joined([*spans, (start, whole[1])]) if begin < end)


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans in order, those that touch as one."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined


def _after_prefill(text: str, turn: Turn, start: int, end: int) -> int:
    prefill = str(turn.get("prefill") or "").strip()
    if not prefill:
        return start
    at = text.find(prefill, start, end)
    if at < 0 or text[start:at].strip():
        raise TemplateError("the template alters the given beginning of an answer")
    return at + len(prefill)
