"""A model's folder against a run's: template, stops, sampling settings and every tensor. Generates nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from seodang.data.row_cache import file_sha256
from seodang.data.template.find import own_text
from seodang.errors import ModelError, TemplateError
from seodang.model.checkpoint import tensor_files
from seodang.model.load import load_tokenizer
from seodang.serve.server import read_json_object, served_model
from seodang.serve.verify.prompts import PromptProbe, conversations, explanations, prompt_check
from seodang.serve.verify.reference import Reference
from seodang.serve.verify.result import Cause, PromptCheck, Verification

_BLOCK, _LEVELS = 32, 16  # values of a weight that share a scale, and how many different ones 4 bits hold
_GRID_SHARE = 0.95  # of blocks that have no more, to call a tensor quantized
_RESAVE = "serve the run's own model folder"
_PROVE = "prove the quantized model before it is used"


def verify_folder(folder: Path, reference: Reference) -> Verification:
    """Compare a folder with the run's model.

    Raises:
        ModelError: it is no model's folder, or cannot be read.
        SeodangError: its tokenizer or template cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            "holds no config.json", where=str(folder), hint="give a model's folder, or a server's URL (http://…)"
        )
    own = Path(reference.served.path)
    if not own.is_dir():
        raise ModelError(
            "a folder is compared with a run or a folder", where=reference.name, hint="give a run's folder"
        )
    checks, found = _prompts(folder, reference)
    found += [*_stops(own, folder), *_sampling(own, folder), *_weights(own, folder)]
    return Verification(
        target=str(folder),
        run=reference.name,
        verdict="different" if found else "same",
        causes=tuple(found),
        prompts=tuple(checks),
        notes=("nothing was generated: files were compared",),
    )


def _prompts(folder: Path, reference: Reference) -> tuple[list[PromptCheck], list[Cause]]:
    tokenizer = load_tokenizer(str(folder))
    hint = "copy chat_template.jinja and tokenizer files from the run's model folder"
    text = own_text(tokenizer)
    if not text:
        return [], [Cause(name="another template", what="the folder has no chat template", hint=hint)]
    theirs = replace(reference, tokenizer=tokenizer, template=text)
    probes = []
    for name, turns, tools in conversations(reference):
        try:
            served = tuple(theirs.ids(turns, tools))
        except TemplateError:
            served = None
        own = tuple(reference.ids(turns, tools))
        tokens = None if served is None else len(served)
        probes.append(
            PromptProbe(name=name, turns=turns, tools=tools, ids=own, served_ids=served or (), served_tokens=tokens)
        )
    checks = list(map(prompt_check, probes))
    if all(check.is_same for check in checks):
        return checks, []
    for cause, render in explanations(reference):
        if all(one.is_made_by(render) for one in probes):
            return checks, [cause]
    texts = ["감기에 걸렸어요.", "The capital of France", "3.14 × 2 = 6.28"]
    if any(theirs.text_ids(text) != reference.text_ids(text) for text in texts):
        return checks, [Cause(name="another tokenizer", what="the same text has other token ids", hint=hint)]
    return checks, [Cause(name="another template", what="conversations have other token ids", hint=hint)]


def _stops(own: Path, folder: Path) -> list[Cause]:
    proven, served = (
        _ids(read_json_object(path / "generation_config.json").get("eos_token_id")) for path in (own, folder)
    )
    if lost := [token for token in proven if token not in served]:
        what = f"generation_config.json does not end answers at {', '.join(map(str, lost))}"
        hint = "copy generation_config.json from the run's model folder"
        return [Cause(name="no stop token", what=what, hint=hint)]
    return []


def _sampling(own: Path, folder: Path) -> list[Cause]:
    proven, served = served_model(own).sampling, served_model(folder).sampling
    if proven is None or served is None or proven == served:
        return []
    hint = "copy generation_config.json from the run's model folder"
    if proven.repetition_penalty != served.repetition_penalty:
        what = f"repetition_penalty is {served.repetition_penalty:g}, the run's {proven.repetition_penalty:g}"
        return [Cause(name="repetition penalty", what=what, hint=hint)]
    return [Cause(name="sampling", what=f"{served} instead of {proven}", hint=hint)]


def _weights(own: Path, folder: Path) -> list[Cause]:
    """The same files; else tensor by tensor: cast, rounded to few values, or others."""
    config = read_json_object(folder / "config.json")
    if method := config.get("quantization_config"):
        what = f"the folder's weights are quantized ({method.get('quant_method', 'unknown method')})"
        return [Cause(name="quantization", what=what, hint=_PROVE)]
    proven, served = tensor_files(own), tensor_files(folder)
    if _hashes(proven.values()) == _hashes(served.values()):
        return []
    if set(proven) != set(served):
        odd = sorted(set(proven) ^ set(served))
        return [
            Cause(name="another model", what=f"{len(odd)} tensors are in only one of the two: {odd[0]}", hint=_RESAVE)
        ]
    different: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    dtypes: set[str] = set()
    for name in proven:
        before, now = _tensor(proven[name], name), _tensor(served[name], name)
        if before.shape != now.shape:
            what = f"{name} is {list(now.shape)}, the run's {list(before.shape)}"
            return [Cause(name="another model", what=what, hint=_RESAVE)]
        if before.dtype != now.dtype:
            dtypes.add(str(now.dtype).removeprefix("torch."))
        if not torch.equal(before.to(now.dtype), now) and not torch.equal(before, now.to(before.dtype)):
            different.append((name, before, now))
            if len(different) >= 3 and not _is_on_grid(different[-1][2]):
                break  # enough to name it
    return _of_tensors(different, dtypes, len(proven))


def _of_tensors(different: list[tuple[str, torch.Tensor, torch.Tensor]], dtypes: set[str], count: int) -> list[Cause]:
    if not different:
        if not dtypes:
            return []
        return [Cause(name="other dtype", what=f"the run's weights, cast to {', '.join(sorted(dtypes))}", hint=_RESAVE)]
    name, before, now = different[0]
    if rounded := _rounding(before, now):
        what = f"{name} holds the run's weights rounded to {rounded}, stored as {str(now.dtype).removeprefix('torch.')}"
        return [Cause(name="other dtype", what=what, hint=_RESAVE)]
    distance = float((before.float() - now.float()).norm() / before.float().norm().clamp_min(1e-30))
    matrices = [tensor for _, _, tensor in different if tensor.ndim > 1]
    if matrices and all(map(_is_on_grid, matrices)):
        what = f"at least {len(matrices)} of {count} tensors are rounded to few values ({name}: {distance:.1%} off)"
        return [Cause(name="quantization", what=what, hint=_PROVE)]
    what = f"at least {len(different)} of {count} tensors differ ({name}: by {distance:.2g} of its norm)"
    return [Cause(name="another model", what=what, hint=_RESAVE)]


def _rounding(before: torch.Tensor, now: torch.Tensor) -> str | None:
    """The dtype that the weights were rounded to on their way."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(before.to(dtype).float(), now.float()):
            return str(dtype).removeprefix("torch.")
    return None


def _is_on_grid(tensor: torch.Tensor) -> bool:
    """Whether blocks of a matrix hold no more different values than 4 bits can."""
    flat = tensor.float().reshape(-1)[: tensor.numel() // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    if not len(flat):
        return False
    blocks = flat[:: max(1, len(flat) // 256)].sort(dim=1).values
    levels = (blocks.diff(dim=1) != 0).sum(dim=1) + 1
    return float((levels <= _LEVELS).float().mean()) >= _GRID_SHARE


def _tensor(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as tensors:
        found: torch.Tensor = tensors.get_tensor(name)
        return found


def _hashes(files: Iterable[Path]) -> Mapping[str, str]:
    """SHA-256 of the files that hold weights, by name."""
    return {path.name: file_sha256(path) for path in set(files)}


def _ids(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value or ())
