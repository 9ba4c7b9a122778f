"""A folder, hub id or package → a model and its tokenizer, or one clear message. It knows nothing of data."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto import tokenization_auto
from transformers.utils import cached_file

from seodang import recipe
from seodang.errors import ModelError, ResourceError, SeodangError, first_line
from seodang.hub_access import contact
from seodang.hub_access.refusals import has
from seodang.model.checkpoint import auto_class, recording_untaken, shortened, tensor_files
from seodang.model.find_model import A_FOLDER, check_folder, find_model
from seodang.model.packaged import PREFIX, packaged_folder
from seodang.model.quiet import quiet
from seodang.types import Placement
from seodang.user_paths import cache_folder, expanded

_GIVE_TOKENIZER = "put tokenizer.json and tokenizer_config.json beside the model"
_NOT_CAUSAL = ("MaskedLM", "Classification", "QuestionAnswering", "MultipleChoice", "Prediction", "EncoderModel")
_BESIDE_WEIGHTS = ["*.json", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*"]
# sizes beyond every model's: what works through them, layer by layer or tile by tile, would never end
_LARGEST = {"num_hidden_layers": 10_000, "vocab_size": 10**8, "hidden_size": 10**6, "intermediate_size": 10**8}
# what a wrongly chosen tokenizer class splits otherwise: Hangul, digits, runs of blanks, contractions, line breaks
_PROBE = "안녕하세요. 2024년 12월에는  The quick\n\n\tbrown fox's 100% <b>x</b> café 😀 형태소 don't    x"


def resolve_model(path: str, *, revision: str | None = None) -> str:
    """What transformers can load: `package:NAME` becomes its folder, converted on first use; a run's folder its model.

    Raises:
        ModelError: no such folder, or a file.
        HubError: the hub does not have it, does not let this user read it, or cannot be reached.
    """
    found = find_model(path, revision=revision)
    return str(packaged_folder(found)) if found.startswith(PREFIX) else found


def base_folder(spec: recipe.Model) -> Path:
    """The folder of a recipe's model; of one from the hub, its newest copy here with all that lies beside the weights.

    Raises:
        ModelError: no such folder, or a file.
    """
    path = resolve_model(spec.path, revision=spec.revision)
    if Path(path).is_dir():
        return Path(path)
    with _as_our_errors(spec.path, spec.revision):
        found = snapshot_download(path, revision=spec.revision, allow_patterns=_BESIDE_WEIGHTS, ignore_patterns="*/*")
    return Path(found)


def load_config(spec: recipe.Model) -> PreTrainedConfig:
    """The config of a recipe's model, a causal language model that transformers knows; no weights are read.

    Raises:
        ModelError: says what is missing or wrong, and how to fix it.
    """
    path = resolve_model(spec.path, revision=spec.revision)
    if Path(path).is_dir():
        check_folder(Path(path), spec.path)
    with _as_our_errors(spec.path, spec.revision):
        file = cached_file(path, "config.json", revision=spec.revision)
        if file is None:
            raise ModelError("no config.json", where=spec.path, hint="give a folder or hub id that holds a model")
        _check_config(json.loads(Path(file).read_text(encoding="utf-8")), spec)
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    return config


def weight_files(spec: recipe.Model) -> list[Path]:
    """Configuration and weights of a recipe's model, as transformers reads them: on this machine once it was loaded."""
    folder = Path(resolve_model(spec.path, revision=spec.revision))
    if not folder.is_dir():
        with _as_our_errors(spec.path, spec.revision):
            folder = Path(cached_file(str(spec.path), "config.json", revision=spec.revision)).parent
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return [folder / "config.json", *weights]


def weights_are_here(spec: recipe.Model) -> bool:
    """Whether all weights of a recipe's model are on this machine, to be read without a network."""
    if Path(resolve_model(spec.path, revision=spec.revision)).is_dir():
        return True
    _, *weights = weight_files(spec)
    parts = {match[1] for file in weights if (match := re.search(r"-of-(\d+)\.", file.name))}
    return bool(weights) and all(len(weights) == int(number) for number in parts)


def load_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, hub id or package: a fast one, which knows the characters that each token covers.

    Raises:
        ModelError: missing, damaged, slow, or not the one its own tokenizer.json describes.
    """
    folder = resolve_model(path, revision=revision)
    with _as_our_errors(path, revision):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, revision=revision, trust_remote_code=trust_remote_code
        )
        if len(tokenizer) < 100:  # transformers makes an empty one where the files are missing
            raise ModelError("no tokenizer", where=path, hint=_GIVE_TOKENIZER)
        if not tokenizer.is_fast:
            what = f"{type(tokenizer).__name__} is a slow tokenizer, which cannot say where a token stands in the text"
            raise ModelError(what, where=path, hint="save it as a fast one (tokenizer.json)")
        if not isinstance(tokenizer.model_max_length, int | float):
            what = f"tokenizer_config.json: model_max_length is {tokenizer.model_max_length!r:.40}, not a number"
            raise ModelError(what, where=path, hint="correct it, or remove the line")
        _check_class(tokenizer, folder, path, revision)
        tokenizer(_PROBE)  # what else has another type than transformers expects shows only now
    return tokenizer


def load_model(spec: recipe.Model, placement: Placement, *, four_bit: bool = False) -> PreTrainedModel:
    """The recipe's model in evaluation mode, on the placement's device and in its dtype.

    Args:
        four_bit: hold the linear layers but the head in 4 bits (NF4), as QLoRA trains beside them.

    Raises:
        ModelError: says what is missing or wrong, and how to fix it.
        ResourceError: it does not fit into the memory of the device.
    """
    config = load_config(spec)
    if placement.dtype == "float16" and config.model_type.startswith("gemma"):
        what = "Gemma overflows in float16"
        raise ModelError(what, where="model.dtype", hint="use dtype: auto, float32 or bfloat16")
    with _as_our_errors(spec.path, spec.revision):
        with recording_untaken() as untaken:
            model, info = auto_class(config).from_pretrained(
                resolve_model(spec.path, revision=spec.revision),
                config=config,
                revision=spec.revision,
                trust_remote_code=spec.trust_remote_code,
                dtype=getattr(torch, placement.dtype),
                output_loading_info=True,
                **(_four_bit(placement) if four_bit else {}),
            )
        if missing := sorted(info["missing_keys"]):
            raise ModelError(
                f"the weights lack {len(missing)} of the model's tensors ({missing[0]} …): they would be random",
                where=spec.path,
                hint="give a complete causal language model",
            )
        model.untaken_tensors = tuple(sorted(untaken))
        placed: PreTrainedModel = (model if four_bit else model.to(placement.device)).eval()
    return placed


def _four_bit(placement: Placement) -> dict[str, Any]:
    compute = getattr(torch, placement.compute_dtype)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    return {"quantization_config": config, "device_map": {"": placement.device}}


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether the model's linear layers are held in 4 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def grow_vocabulary(model: PreTrainedModel, num_rows: int, *, seed: int = 0) -> None:
    """Give embedding and head rows for the ids below `num_rows`, drawn around the mean of those that are there.

    Rows are never taken away: makers pad vocabularies, and the padding takes part in every softmax of the base.

    Args:
        seed: of the new rows; torch's own random state stays as it is.
    """
    if len(model.get_input_embeddings().weight) >= num_rows:
        return
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        model.resize_token_embeddings(num_rows)


def check_untaken(model: PreTrainedModel, spec: recipe.Model) -> str | None:
    """A sentence on the tensors of the base that its class does not take: the tuned model gets them as they are.

    Raises:
        ModelError: it could not get them, and the recipe does not allow that.
    """
    names: tuple[str, ...] = getattr(model, "untaken_tensors", ())
    if not names:
        return None
    there = tensor_files(base_folder(spec))
    lost = [name for name in names if name not in there]
    if lost and not spec.allow_lost_tensors:
        what = f"{len(lost)} of its tensors are not part of {type(model).__name__}, and a tuned model would lack them"
        raise ModelError(
            f"{what}: {shortened(lost)}",
            where=spec.path,
            hint="give the base as safetensors, or set allow_lost_tensors: true under model: in the recipe",
        )
    fate = "are missing from the tuned model, as allowed" if lost else "are carried into the tuned model untrained"
    return f"{len(lost or names)} tensors of the base that are not part of {type(model).__name__} {fate}: " + shortened(
        lost or names
    )


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Put the weights that `save_model` wrote to `folder` into a model of the same architecture, in place.

    Raises:
        ModelError: the folder is incomplete or damaged.
    """
    with _as_our_errors(str(folder), None):
        stored = type(model).from_pretrained(folder, dtype=model.dtype)
        if len(stored.get_input_embeddings().weight) != len(model.get_input_embeddings().weight):
            model.resize_token_embeddings(len(stored.get_input_embeddings().weight))
        model.load_state_dict(stored.state_dict())


def _check_config(config: Mapping[str, Any], spec: recipe.Model) -> None:
    """Refuse what cannot be trained as a causal language model, before any weight is read."""
    text_config = config.get("text_config")
    for sizes in (config, text_config if isinstance(text_config, dict) else {}):
        for name, most in _LARGEST.items():
            if isinstance(size := sizes.get(name), int | float) and size > most:
                what = f"config.json says {name} {size:,}; no model has more than {most:,}"
                raise ModelError(what, where=spec.path, hint="the file is damaged: fetch or copy it again")
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        if "auto_map" not in config:
            hint = "a newer transformers may know it: pip install -U transformers"
            raise ModelError(f"transformers does not know the architecture {kind!r}", where=spec.path, hint=hint)
        if not spec.trust_remote_code:
            what = f"the architecture {kind!r} is Python code that comes with the model"
            hint = "read that code; if you trust it, set trust_remote_code: true under model: in the recipe"
            raise ModelError(what, where=spec.path, hint=hint)
        return
    names = config.get("architectures") or []
    causal = CONFIG_MAPPING[kind] in MODEL_FOR_CAUSAL_LM_MAPPING and not config.get("is_encoder_decoder")
    if not causal or any(name.endswith(_NOT_CAUSAL) for name in names):
        what = f"{names[0] if names else kind} is not a causal language model"
        raise ModelError(what, where=spec.path, hint="give a decoder such as Gemma, Qwen or Llama")
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        what = f"its weights are quantized ({method}), and cannot be trained"
        raise ModelError(what, where=spec.path, hint="give the unquantized model")


def _class_hint(folder: str, revision: str | None) -> str:
    """How to have tokenizer.json taken as it is; of some architectures transformers ignores the class that is named."""
    file = cached_file(folder, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    kind = json.loads(Path(file).read_text(encoding="utf-8")).get("model_type") if file else None
    if kind not in getattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ()):
        return 'set "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json'
    return (
        f"transformers takes this class for every {kind} model, whatever tokenizer_config.json names: put a "
        "tokenizer.py beside it with these two lines:\n"
        "      from transformers import PreTrainedTokenizerFast\n"
        "      class Tokenizer(PreTrainedTokenizerFast): pass\n"
        '    then set "auto_map": {"AutoTokenizer": [null, "tokenizer.Tokenizer"]} in tokenizer_config.json and '
        "trust_remote_code: true under model: in the recipe"
    )


def _check_class(tokenizer: PreTrainedTokenizerBase, folder: str, path: str, revision: str | None) -> None:
    """A class that is not made for this tokenizer.json splits text otherwise than in pretraining."""
    if type(tokenizer) is PreTrainedTokenizerFast:  # takes tokenizer.json as it is
        return
    file = cached_file(folder, "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    if file is None or (found_sound := _found_sound(Path(file), tokenizer)).is_file():
        return
    expected = Tokenizer.from_file(file).encode(_PROBE, add_special_tokens=False).ids
    if tokenizer(_PROBE, add_special_tokens=False)["input_ids"] != expected:
        what = f"{type(tokenizer).__name__} gives other ids than tokenizer.json"
        raise ModelError(what, where=path, hint=_class_hint(folder, revision))
    with suppress(OSError):  # then it is checked again
        found_sound.parent.mkdir(parents=True, exist_ok=True)
        found_sound.touch()


def _found_sound(file: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The empty file that says that this very tokenizer was checked: to read it a second time takes over a second."""
    made_by = (type(tokenizer).__name__, transformers.__version__, tokenizers.__version__, _PROBE)
    digest = hashlib.sha256(" ".join(made_by).encode())
    for made_of in (file, file.with_name("tokenizer_config.json")):
        digest.update(made_of.read_bytes() if made_of.is_file() else b"")
    return cache_folder() / "tokenizers" / digest.hexdigest()


@contextmanager
def _as_our_errors(path: str, revision: str | None) -> Iterator[None]:
    """transformers quiet, and its errors as ours."""
    try:
        with quiet():
            yield
    except SeodangError:
        raise
    except torch.OutOfMemoryError as error:
        what = "the model does not fit into the memory of the device"
        raise ResourceError(what, where=path, hint="take a smaller model, or device: cpu") from error
    except Exception as error:  # transformers, the hub and safetensors raise nearly every class there is
        raise _explained(error, path, revision) from error


def _explained(error: Exception, path: str, revision: str | None) -> SeodangError:
    if of_hub := contact.explained(error, path, "model", revision=revision, instead=A_FOLDER):
        return of_hub
    if unreadable := _unreadable(expanded(path)):
        return ModelError(f"{unreadable} may not be read", where=path, hint="check the permissions of folder and files")
    if has(error, json.JSONDecodeError) and (damaged := _damaged_json(path)):
        return ModelError(f"{damaged} is not complete JSON", where=path, hint="fetch or copy the folder again")
    if "backend tokenizer" in str(error):
        return ModelError("no tokenizer", where=path, hint=_GIVE_TOKENIZER)
    if has(error, SafetensorError):
        return ModelError(f"damaged weights: {error}", where=path, hint="fetch or convert the model again")
    what = f"cannot be loaded: {first_line(error)}"
    return ModelError(what, where=path, hint="check that the folder is complete and undamaged")


def _unreadable(folder: Path) -> str | None:
    """The first file of a folder that the user may not read: libraries report it as missing."""
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return next((file.name for file in files if file.exists() and not os.access(file, os.R_OK)), None)


def _damaged_json(path: str) -> str | None:
    """The first of a folder's JSON files that cannot be read."""
    for file in sorted(expanded(path).glob("*.json")):
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return file.name
    return None
