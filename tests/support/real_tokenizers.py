"""The makers' tokenizers beside the repository, each of them loaded once in a process."""

import copy
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from paths import SHARED
from seodang.model.load import load_tokenizer

FOLDER = SHARED / "data" / "tokenizers"


def real_tokenizer(name: str, folder: Path = FOLDER) -> PreTrainedTokenizerBase:
    """One whose settings the test may change; its vocabulary is shared, so nothing may be added to it."""
    tokenizer = copy.copy(_loaded(folder / name))
    tokenizer._special_tokens_map = dict(tokenizer._special_tokens_map)
    return tokenizer


@cache
def _loaded(folder: Path) -> PreTrainedTokenizerBase:
    """As seodang loads it; Gemma's takes seconds."""
    return load_tokenizer(str(folder))
