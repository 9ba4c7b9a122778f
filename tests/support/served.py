"""Is every supervised answer trained behind what is served for it? Asks transformers alone, nothing of seodang's."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

IGNORED = -100


def check_served(
    tokenizer: Any,
    conversation: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    examples: Iterable[Mapping[str, Any]],
    *,
    turn_ends: Sequence[int],
    **settings: Any,
) -> list[int]:
    """The assistant turns that these examples supervise, in their order there; each fault is an AssertionError.

    Args:
        tokenizer: with the template that is served.
        conversation: that the examples were made from, contents never null.
        examples: rows with input_ids and labels.
        turn_ends: ids of which one must close each supervised run.
        settings: of the template when it is served, such as enable_thinking.
    """
    answers = [number for number, turn in enumerate(conversation) if turn["role"] == "assistant"]
    served = {
        number: [
            _ids(tokenizer, conversation[:number], tools, add_generation_prompt=True, **{**settings, **more})
            for more in ({}, *([] if _thinks(conversation[number]) else [{"enable_thinking": False}]))
        ]
        for number in answers
    }
    found: list[int] = []
    for example in examples:
        for begin, end in _runs(example["labels"]):
            ids = list(example["input_ids"])
            behind = [number for number in answers if ids[:begin] in served[number]]
            assert len(behind) == 1, f"stands behind no prompt that is served: {tokenizer.decode(ids[:begin])!r}"
            whole = _ids(tokenizer, conversation[: behind[0] + 1], tools, **settings)
            while whole and not tokenizer.decode(whole[-1:]).strip():
                whole.pop()
            assert ids[end - 1] in turn_ends
            if whole[:begin] == ids[:begin]:
                assert ids[:end] == whole, f"another answer: {tokenizer.decode(ids[begin:end])!r}"
            else:  # the template writes a line break in front of it only where it is the last thing
                assert ids[begin:end] == whole[begin - end :], tokenizer.decode(ids[begin:end])
            found.append(behind[0])
    return found


def _thinks(turn: Mapping[str, Any]) -> bool:
    return bool(turn.get("reasoning_content")) or "</think>" in (turn.get("content") or "")


def _ids(tokenizer: Any, turns: Sequence[Mapping[str, Any]], tools: Any, **settings: Any) -> list[int]:
    return list(tokenizer.apply_chat_template([dict(turn) for turn in turns], tools, **settings)["input_ids"])


def _runs(labels: Sequence[int]) -> list[tuple[int, int]]:
    """[first, after) of each run of supervised tokens."""
    runs: list[tuple[int, int]] = []
    for at, label in enumerate(labels):
        if label == IGNORED:
            continue
        if runs and runs[-1][1] == at:
            runs[-1] = runs[-1][0], at + 1
        else:
            runs.append((at, at + 1))
    return runs
