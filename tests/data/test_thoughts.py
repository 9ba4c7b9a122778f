"""Data hold thoughts where an answer comes with one, and nowhere else."""

from typing import Any

import pytest

from qa_rows import data_set, row
from seodang.data.prepare import has_thoughts

QUESTION = {"role": "user", "content": "왜?"}


def _has(*turns: dict[str, Any]) -> bool:
    plain = [row(number, [("user", "q"), ("assistant", "a")], "s") for number in range(20)]
    return has_thoughts(data_set([*plain, row(20, [("user", "q")], "s", messages=[QUESTION, *turns])]))


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "네.", "reasoning_content": "음…"},
        {"content": "<think>\n음…\n</think>\n\n네."},
        {"content": "\n<think>음</think>네"},
        {"content": "음, 물음은 이렇다.\n</think>\n\n네."},
    ],
)
def test_an_answer_with_a_thought_counts(turn: dict[str, Any]) -> None:
    """In a field of its own, or in front of the answer's text, whose opening some data leave out."""
    assert _has({"role": "assistant", **turn})


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": "</think>는 무엇인가요?"}, {"role": "assistant", "content": "태그예요."}],
        [{"role": "user", "content": "<think>\n몰라\n</think>\n이걸 고쳐줘"}, {"role": "assistant", "content": "네."}],
        [{"role": "assistant", "content": "생각은 </think> 로 닫습니다."}],
        [{"role": "assistant", "content": "<think>\n\n</think>\n\n네."}],
        [{"role": "assistant", "content": "네.", "reasoning_content": " \n"}],
        [{"role": "assistant", "content": 'JSON은 {"reasoning_content": "음"} 이렇게 씁니다.'}],
        [{"role": "system", "content": "<think>음</think>"}, {"role": "assistant", "content": "네."}],
        [{"role": "tool", "content": "<think>음</think>"}, {"role": "assistant", "content": "네."}],
    ],
)
def test_a_text_that_speaks_of_thinking_does_not(turns: list[dict[str, Any]]) -> None:
    """A question, a tool's report or an answer about the tags, and an empty block, leave thinking off."""
    assert not _has(*turns)
