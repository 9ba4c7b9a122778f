"""Labels from spans, and spans from sentinels."""

import re

import numpy as np
import pytest

from seodang.data.encode.mask import edges, supervise
from seodang.data.template.answer_sentinels import (
    AnswerSpan,
    find_answers,
    find_body,
    insert_sentinels,
    pieces_of,
    remove_sentinels,
)
from seodang.errors import TemplateError
from seodang.types import IGNORED

CHATML_HEADER, CHATML_END = "<|im_start|>assistant\n", "<|im_end|>"
CHATML_MARKERS = re.compile(r"<\|im_(start|end)\|>")


def _labels(starts: list[int], spans: list[tuple[int, int]], ids: list[int]) -> np.ndarray:
    found = edges(np.array(starts, dtype=np.int64), np.array(spans, dtype=np.int64))
    return supervise(np.array(ids, dtype=np.int32), found)


def _find(text: str) -> list[AnswerSpan]:
    plain, sentinels = remove_sentinels(text)
    return find_answers(sentinels, plain)


def test_tokens_inside_a_span_are_supervised_and_others_are_not() -> None:
    """A token is supervised exactly where it begins inside [start, end)."""
    labels = _labels([0, 2, 4, 6, 8], [(2, 4), (6, 8)], [5, 6, 7, 8, 9])
    assert labels.tolist() == [IGNORED, 6, IGNORED, 8, IGNORED]
    assert labels.dtype == np.int32


def test_byte_tokens_of_one_character_stay_together() -> None:
    """Three byte tokens that share a character are all supervised with it."""
    labels = _labels([0, 1, 2, 2, 3], [(1, 3)], [1, 2, 3, 4, 5])
    assert labels.tolist() == [IGNORED, 2, 3, 4, IGNORED]


def test_a_turn_end_that_swallows_white_space_is_supervised() -> None:
    """A token that begins in the span and ends after it belongs to it."""
    labels = _labels([0, 4, 9], [(4, 8)], [1, 2, 3])
    assert labels.tolist() == [IGNORED, 2, IGNORED]


def test_the_first_token_is_never_a_target() -> None:
    """Nothing comes before the first token, so nothing predicts it."""
    labels = _labels([0, 1], [(0, 2)], [8, 9])
    assert labels.tolist() == [IGNORED, 9]


def test_rows_that_lie_end_to_end_keep_their_first_tokens_apart() -> None:
    """The first token of every row is no target, wherever the row begins."""
    ids = np.array([1, 2, 3, 4, 5], dtype=np.int32)
    assert supervise(ids, np.array([[0, 2], [2, 5]]), [0, 2]).tolist() == [IGNORED, 2, IGNORED, 4, 5]


def test_no_tokens_give_no_labels() -> None:
    """An empty row has empty labels."""
    assert _labels([], [(0, 3)], []).tolist() == []


def test_sentinels_stand_inside_the_white_space_and_come_off_again() -> None:
    """A template that trims sees the same trimmed text with and without sentinels."""
    turns = [{"role": "user", "content": " q "}, {"role": "assistant", "content": "\n 물을 마셔요. \n"}]
    marked = insert_sentinels(turns)
    assert marked[0] == turns[0]
    assert marked[1]["content"].startswith("\n ")
    assert marked[1]["content"].endswith(" \n")
    assert remove_sentinels(marked[1]["content"])[0] == turns[1]["content"]
    assert remove_sentinels(marked[1]["content"].strip())[0] == "물을 마셔요."


def test_sentinels_say_which_message_they_belong_to() -> None:
    """Turn 27 of a long conversation is found as turn 27."""
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(14) for role in ("user", "assistant")]
    found = _find("".join(turn["content"] + "|" for turn in insert_sentinels(turns)))
    assert [turn.message for turn in found] == list(range(1, 28, 2))
    assert found[-1].pieces == ("assistant 13",)


def test_thoughts_answers_and_calls_are_marked_apart() -> None:
    """Every piece of a turn gets its own marks, think tags and arguments none."""
    turn = {
        "role": "assistant",
        "content": "<think>\nhm\n</think>\n\n네",
        "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"name": "x"}}}],
    }
    marked = insert_sentinels([turn])[0]
    text = marked["content"] + marked["tool_calls"][0]["function"]["name"]
    found = _find(text)[0]
    assert sorted(found.pieces) == sorted(pieces_of(turn)) == ["find", "hm", "네"]
    assert found.ends_in_call
    assert marked["tool_calls"][0]["function"]["arguments"] == {"name": "x"}
    assert turn["tool_calls"][0]["function"]["name"] == "find"  # the row itself is left alone


def test_a_sentinel_without_its_partner_is_refused() -> None:
    """A template that cuts contents is noticed."""
    whole = insert_sentinels([{"role": "assistant", "content": "a long answer"}])[0]["content"]
    for cut in (whole[:6], whole[6:], whole + whole[-1]):
        with pytest.raises(TemplateError, match="cuts an answer"):
            _find(cut)


def _bodies(*answers: str, end: str = CHATML_END) -> tuple[str, list[tuple[int, int]]]:
    turns = insert_sentinels([{"role": "assistant", "content": answer} for answer in answers])
    marked = "".join(f"<|im_start|>user\nq<|im_end|>\n{CHATML_HEADER}{turn['content']}{end}\n" for turn in turns)
    text, _ = remove_sentinels(marked)
    bodies, previous_end = [], 0
    for turn in _find(marked):
        start = text.rindex(CHATML_HEADER, previous_end, turn.start) + len(CHATML_HEADER)
        bodies.append(find_body(text, turn, start, turn_end=CHATML_END, markers=CHATML_MARKERS))
        previous_end = bodies[-1][1]
    return text, bodies


def test_bodies_run_from_header_to_turn_end() -> None:
    """Each answer with its own turn end, without header and following newline."""
    text, bodies = _bodies("하나", " two ", "셋")
    assert [text[start:end] for start, end in bodies] == ["하나<|im_end|>", " two <|im_end|>", "셋<|im_end|>"]


def test_an_empty_think_block_is_no_part_of_the_body() -> None:
    """Supervising an empty think block would unlearn thinking."""
    text, bodies = _bodies("<think>\n\n</think>\n\n  네")
    assert [text[start:end] for start, end in bodies] == ["  네<|im_end|>"]


def test_a_missing_turn_end_in_the_middle_is_refused() -> None:
    """A body must not run through the next question to that question's own end."""
    with pytest.raises(TemplateError, match="between an answer and its turn end"):
        _bodies("하나", "둘", end="")


def test_a_missing_turn_end_at_the_last_turn_is_refused() -> None:
    """Without any turn end the model would never learn to stop."""
    with pytest.raises(TemplateError, match="no turn end"):
        _bodies("하나", end="")
