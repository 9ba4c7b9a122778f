"""The makers' tokenizers beside the repository, each of them read once in a process."""

import copy
from functools import cache
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from paths import SHARED

FOLDER = SHARED / "data" / "tokenizers"


def real_tokenizer(name: str, folder: Path = FOLDER) -> PreTrainedTokenizerBase:
    """One whose settings the test may change; its vocabulary is shared, so nothing may be added to it."""
    tokenizer = copy.copy(_read(folder / name))
    tokenizer._special_tokens_map = dict(tokenizer._special_tokens_map)
    return tokenizer


@cache
def _read(folder: Path) -> PreTrainedTokenizerBase:
    """Seconds for Gemma's."""
    return AutoTokenizer.from_pretrained(folder)
