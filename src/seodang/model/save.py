"""A model in hand → a folder that transformers loads without seodang, and the facts of the manifest."""

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import xxhash
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from seodang import recipe
from seodang.data.template.default_system import with_default_system
from seodang.errors import ModelError
from seodang.model.base_files import carry_files
from seodang.model.checkpoint import read_tensors, tensor_files
from seodang.model.quiet import quiet
from seodang.types import ModelFacts

_SAMPLED = 4096  # values of each tensor that enter the fingerprint


def end_ids(model: PreTrainedModel, turn_end_id: int | None, call_end_id: int | None = None) -> list[int]:
    """The ids that end an answer: the turn end, the end of a turn of calls, then what ended a text for the base."""
    found = [token for token in (turn_end_id, call_end_id) if token is not None]
    for config in (model.generation_config, model.config.get_text_config()):
        ids = getattr(config, "eos_token_id", None)
        found += [ids] if isinstance(ids, int) else ids or []
    return list(dict.fromkeys(found))


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    turn_end_id: int | None,
    call_end_id: int | None = None,
    base: Path | None = None,
    system: str | None = None,
    sampling: recipe.Generate | None = None,
    dtype: torch.dtype | None = None,
    on_written: Callable[[Path], object] | None = None,
) -> None:
    """Write safetensors, tokenizer with its chat template, and a generation config that stops at the turn end.

    The folder appears complete or not at all; one that is there is replaced.

    Args:
        turn_end_id: ends an answer; none: nothing but text was trained, which ends as it does for the base.
        call_end_id: ends a turn of tool calls, where it is another.
        base: the folder of the model that was tuned: all that tuning did not change is as it is there.
        system: the text of a system turn that the saved template gives to conversations without one.
        sampling: how answers are drawn by default; none: as the base says.
        dtype: of the saved weights; none: their own.
        on_written: takes the complete folder, just before it gets its name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    new, old = aside / "new", aside / "old"
    own, template = model.generation_config, tokenizer.chat_template
    try:
        model.generation_config = _generation_config(
            model, tokenizer, end_ids(model, turn_end_id, call_end_id), sampling
        )
        if system is not None and template:
            tokenizer.chat_template = with_default_system(template, system)
        with quiet():
            model.save_pretrained(new, state_dict=_state_dict(model, base, dtype))
            tokenizer.save_pretrained(new)
        if base:
            carry_files(base, new, model, tokenizer, dtype or model.dtype)
        for weights in new.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors makes them private
        if on_written:
            on_written(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        model.generation_config, tokenizer.chat_template = own, template
        shutil.rmtree(aside, ignore_errors=True)


def _state_dict(model: PreTrainedModel, base: Path | None, dtype: torch.dtype | None) -> dict[str, torch.Tensor] | None:
    """The model's tensors and those of the base that its class does not take; none: the model's alone."""
    untaken: tuple[str, ...] = getattr(model, "untaken_tensors", ()) if base else ()
    if not untaken and dtype is None:
        return None
    tensors: dict[str, torch.Tensor] = model.state_dict()
    if dtype is not None:
        weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        cast = {id(tensor): tensor.to(dtype) for name, tensor in model.named_parameters() if tensor.is_floating_point()}
        own = dict(model.named_parameters(remove_duplicate=False))  # tied ones are one tensor, and stay one
        tensors |= {name: cast.get(id(own[name]), tensors[name]) for name in weights if name in tensors}
    if base:
        there = tensor_files(base)
        tensors |= read_tensors(base, [name for name in untaken if name in there])
    return tensors


@torch.no_grad()
def round_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make the weights those that are loaded again after they were saved in this dtype, in place.

    Raises:
        ModelError: one of them is too large for it.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point():
            weight.copy_(weight.to(dtype))
            if not bool(weight.isfinite().all()):
                what = f"{name} has values that {str(dtype).removeprefix('torch.')} cannot hold"
                raise ModelError(what, where="save.dtype", hint="use bfloat16 or float32")


def _generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: list[int], sampling: recipe.Generate | None
) -> GenerationConfig:
    """The base's own sampling settings, or those given, and what ends an answer; none if the base's contradict."""
    config = copy.deepcopy(model.generation_config)
    try:
        config.validate(strict=True)
    except ValueError:
        config = GenerationConfig()
    config.eos_token_id = ends or None
    config.pad_token_id, config.bos_token_id = tokenizer.pad_token_id, tokenizer.bos_token_id
    if sampling:
        is_drawn = sampling.temperature is not None
        config.do_sample = is_drawn
        config.temperature = sampling.temperature
        config.repetition_penalty = sampling.repetition_penalty
        # named, because other software has limits of its own where none is named
        config.top_p = (sampling.top_p or 1.0) if is_drawn else None
        config.top_k = (sampling.top_k or 0) if is_drawn else None
        for name in ("min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff"):
            setattr(config, name, None)
    return config


def describe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ModelFacts:
    """The facts of a model for the manifest."""
    config = model.config.get_text_config()
    return ModelFacts(
        path=model.name_or_path,
        architecture=type(model).__name__,
        parameters=model.num_parameters(),  # knows how many 4-bit weights a byte holds
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        vocabulary=config.vocab_size,
        tokens=len(tokenizer),
        dtype=str(model.dtype).removeprefix("torch."),
        sha256=_fingerprint(model),
    )


@torch.no_grad()
def weights_hash(model: PreTrainedModel) -> str:
    """Names a model by all of its weights, and by what its configuration says beside where it came from."""
    unimportant = ("_name_or_path", "architectures", "transformers_version")
    config = {name: value for name, value in model.config.to_dict().items() if name not in unimportant}
    digest = xxhash.xxh3_128(f"{type(model).__name__} {json.dumps(config, sort_keys=True, default=str)}".encode())
    for name, tensor in model.named_parameters():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def _fingerprint(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.named_parameters():
        flat = tensor.reshape(-1)
        sample = flat[:: max(1, len(flat) // _SAMPLED)].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
