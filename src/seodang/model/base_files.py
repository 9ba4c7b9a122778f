"""The files beside a base's weights, in the tuned model's folder: only what tuning changed differs from them.

transformers writes a config and a tokenizer anew, as it understood them: keys that it does not know are lost, defaults
are written out, and a tokenizer.json may come back with another pre-tokenizer. Other software reads those files too.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# A folder may hold anything, such as checkpoints or data: what is carried is named.
_TOKENIZER = (
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.\w+|merges\.txt|[\w.-]+\.(model|tiktoken|spm)"
)
_BESIDE = r"(\w+_)?(preprocessor|processor)_config\.json|(LICENSE|NOTICE|USE_POLICY)(\.\w+)?"
CARRIED = re.compile(f"{_TOKENIZER}|{_BESIDE}")

_SPECIAL = ("eos_token", "pad_token")  # what a tuned model's tokenizer has of its own
_DTYPES = ("dtype", "torch_dtype")  # as newer and older configs name it

Json = dict[str, Any]  # of a file whose keys are the base's own


def carry_files(
    base: Path, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> None:
    """Put the base's files in the place of those that transformers wrote, with what tuning changed.

    Args:
        base: the folder of the model that was tuned.
        folder: where transformers saved model and tokenizer.
        dtype: of the saved weights.
    """
    _change(folder / "config.json", lambda written: _config(written, base, model, dtype))
    # a tokenizer with code of its own is written beside that code
    carried = re.compile(_BESIDE) if tokenizer._auto_class else CARRIED
    for file in sorted(base.iterdir()):
        if file.is_file() and carried.fullmatch(file.name):
            shutil.copyfile(file, folder / file.name)
    # the template that was trained is in chat_template.jinja, for processors too
    _change(folder / "processor_config.json", lambda found: _without(found, "chat_template"))
    if not tokenizer._auto_class:
        added = _added(folder / "tokenizer.json", tokenizer)
        if added:  # parsing a file of tens of megabytes takes seconds
            _change(folder / "tokenizer.json", lambda found: _with_added_tokens(found, added))
        _change(folder / "tokenizer_config.json", lambda found: _tokenizer_config(found, tokenizer, added))
        _change(folder / "special_tokens_map.json", lambda found: _with_special_tokens(found, tokenizer))
        _change(folder / "added_tokens.json", lambda found: found | {str(token): i for i, token in added.items()})


def _config(written: Json, base: Path, model: PreTrainedModel, dtype: torch.dtype) -> Json:
    """The base's config with the dtype and the vocabulary of the weights; no pointer to code that is not beside it."""
    file = base / "config.json"
    config: Json = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    name = type(model).__name__
    if not config or name not in (config.get("architectures") or [name]):  # only a part of the base was loaded
        config = _without(written, "use_cache") | {key: config[key] for key in ("use_cache",) if key in config}
    config = _with_dtype(config, str(dtype).removeprefix("torch."))
    config = _with_vocab_size(config, model.config)
    auto_map = {"auto_map": written["auto_map"]} if model._auto_class else {}
    return _without(config, "auto_map") | auto_map


def _with_dtype(config: Json, dtype: str) -> Json:
    changed = {key: _with_dtype(value, dtype) if isinstance(value, dict) else value for key, value in config.items()}
    return changed | {key: dtype for key in _DTYPES if isinstance(config.get(key), str)}


def _with_vocab_size(config: Json, loaded: PreTrainedConfig) -> Json:
    text = loaded.get_text_config()
    part = next((key for key in loaded.sub_configs if getattr(loaded, key, None) is text), None)
    sizes = config if part is None else config.get(part, {})
    if sizes.get("vocab_size", type(text)().vocab_size) == text.vocab_size:
        return config
    sizes = sizes | {"vocab_size": text.vocab_size}
    return sizes if part is None else config | {part: sizes}


def _added(file: Path, tokenizer: PreTrainedTokenizerBase) -> Mapping[int, AddedToken]:
    """The tokens that a tokenizer has beyond those of the file, by id."""
    if not file.is_file():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))
    known = {token["content"] for token in found["added_tokens"]}
    candidates = {i: token for i, token in tokenizer.added_tokens_decoder.items() if str(token) not in known}
    vocabulary = found["model"]["vocab"]  # by token, or pairs of token and score
    pieces = vocabulary if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    return {i: token for i, token in candidates.items() if str(token) not in pieces}


def _with_added_tokens(found: Json, added: Mapping[int, AddedToken]) -> Json:
    entries = [{"id": i, **_flags(token)} for i, token in sorted(added.items())]
    return found | {"added_tokens": [*found["added_tokens"], *entries]}


def _tokenizer_config(found: Json, tokenizer: PreTrainedTokenizerBase, added: Mapping[int, AddedToken]) -> Json:
    config = _without(_with_special_tokens(found, tokenizer), "chat_template", "auto_map")
    if "added_tokens_decoder" in found:
        new = {str(i): _flags(token) for i, token in added.items()}
        config["added_tokens_decoder"] = found["added_tokens_decoder"] | new
    return config


def _with_special_tokens(found: Json, tokenizer: PreTrainedTokenizerBase) -> Json:
    """A value is a token, or a token with its flags."""
    ours = {name: token for name in _SPECIAL if (token := getattr(tokenizer, name)) is not None}
    theirs = {
        name: value["content"] if isinstance(value, dict) else value for name, value in found.items() if name in ours
    }
    return found | {name: token for name, token in ours.items() if theirs.get(name) != token}


def _flags(token: AddedToken) -> Json:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: getattr(token, name) for name in names}


def _without(found: Json, *keys: str) -> Json:
    return {key: value for key, value in found.items() if key not in keys}


def _change(file: Path, change: Callable[[Json], Json]) -> None:
    """Write a JSON file again, if there is one and something of it changes: else its bytes stay."""
    if not file.is_file():
        return
    before: Json = json.loads(file.read_text(encoding="utf-8"))
    after = change(before)
    if after != before:
        file.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
