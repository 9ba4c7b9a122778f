"""Stop strings: what is cut off, and what a stream holds back."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from seodang.model.generate.stopping import StopStrings, cut, hold


@pytest.mark.parametrize(
    ("pieces", "strings", "expected"),
    [
        (["가", "나", "다"], (), ["가", "나", "다"]),
        (["가", "나", "다"], ("",), ["가", "나", "다"]),
        (["a\n", "\nb"], ("\n\n",), ["a"]),
        (["a\n", "b\n"], ("\n\n",), ["a", "\nb", "\n"]),  # held until it is clear, the last one until the end
        (["aab", "c"], ("abc", "c"), ["a"]),
        (["x끝", "입", "니", "다"], ("끝입니다",), ["x"]),
        (["x끝", "입", "구"], ("끝입니다",), ["x", "끝입구"]),
        (["stop"], ("stop",), []),
        (["one two three"], ("three", "two"), ["one "]),
    ],
)
def test_hold(pieces: list[str], strings: tuple[str, ...], expected: list[str]) -> None:
    """No piece holds any part of the first stop string, and together they are what `cut` leaves of the whole."""
    found = list(hold(iter(pieces), strings))
    assert found == expected
    assert "".join(found) == cut("".join(pieces), strings)[0]


def test_hold_takes_every_piece() -> None:
    """What follows a stop string is taken, so that whoever writes it comes to an end."""
    pieces = iter(["a", "stop", "b", "c"])
    assert list(hold(pieces, ["stop"])) == ["a"]
    assert list(pieces) == []


def test_rows_end_by_themselves(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Each row ends when its own new text, not its prompt, holds a stop string; then its length is known."""
    prompt, other = (tiny_tokenizer(text, add_special_tokens=False).input_ids for text in ("끝", "밥"))
    width = max(len(prompt), len(other))
    rows = [[0] * (width - len(ids)) + ids for ids in (prompt, other)]
    ending = StopStrings(tiny_tokenizer, ["끝"], width)
    assert ending(torch.tensor(rows), torch.empty(0)).tolist() == [False, False]
    longer = [rows[0] + other + [0] * (len(prompt) - len(other)), rows[1] + prompt + [0] * (len(other) - len(prompt))]
    assert ending(torch.tensor(longer), torch.empty(0)).tolist() == [False, True]
    assert ending.lengths == {1: len(longer[1]) - width}
