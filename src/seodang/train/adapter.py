"""Adapters (LoRA, QLoRA) by peft: added to a model, kept as files, merged into plain weights. It trains nothing.

LoRA layers are put into the model in place: the model that an adapter was added to *is* the adapted one.
"""

import copy
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seodang import recipe
from seodang.errors import ModelError, ResourceError, plural
from seodang.model.engine.trainable_tokens import merge_tokens
from seodang.model.load import is_quantized
from seodang.model.quiet import quiet
from seodang.recipe_file import nearest_or_all

if TYPE_CHECKING:
    from peft import PeftModel

BYPASSED = {  # linear layers whose weights these architectures read past an adapter
    ".out_proj": ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"),
    ".dt_proj": ("falcon_mamba", "jamba", "mamba"),
}
EXPERT_PARTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")  # as peft knows them
EVERY_LAYER = (("auto",), ("all-linear",))  # peft's own name for the same
NO_CHANGE = 1e-2  # of the logits, relative: what an adapter that has learnt nothing may change


def check_adapter(adapter: recipe.Adapter, device: str) -> None:
    """Raise before anything is prepared if the adapter cannot be trained on this device.

    Raises:
        ResourceError: the hardware is missing.
    """
    if adapter.kind == "qlora" and not device.startswith("cuda"):
        what = f"qlora needs a CUDA device, this runs on {device}"
        raise ResourceError(what, where="train.adapter.kind", hint="use kind: lora, or a machine with an NVIDIA GPU")


def add_adapter(
    model: PreTrainedModel, adapter: recipe.Adapter, token_ids: Sequence[int] = (), *, seed: int = 42
) -> "PeftModel":
    """Freeze `model` and put an adapter into it; it computes what it did before until the adapter is trained.

    Args:
        token_ids: tokens whose embedding rows are trained too; tied embeddings stay tied.
        seed: of the random half of the matrices.

    Raises:
        ModelError: a target that the model does not have, or an architecture that peft adapts wrongly.
    """
    probe = torch.tensor([sorted({*token_ids, *range(8)})], device=model.device)
    before = _logits(model, probe)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        adapted = inject_adapter(model, adapter, token_ids)
    changed = (_logits(model, probe) - before).abs().max() / before.abs().max()
    if not changed <= NO_CHANGE:
        raise ModelError(
            f"peft changes what {type(model).__name__} computes before anything is trained (by {float(changed):.0%})",
            where="train.adapter",
            hint="train all weights (no adapter), or name other targets",
        )
    return adapted


def inject_adapter(model: PreTrainedModel, adapter: recipe.Adapter, token_ids: Sequence[int] = ()) -> "PeftModel":
    """The same without a look at what the model computes: it may be one without data (`meta`).

    Raises:
        ModelError: a target that the model does not have.
    """
    from peft import LoraConfig, get_peft_model

    layers, weights = _targets(model, adapter)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha or 2 * adapter.rank,
        lora_dropout=0.0 if weights else adapter.dropout,  # peft has none for weights
        target_modules=layers,
        target_parameters=weights or None,
        trainable_token_indices={name: sorted(token_ids) for name in _embeddings(model)} if token_ids else None,
    )
    try:
        adapted: PeftModel = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(str(error), where="train.adapter", hint="name other targets, or none: auto") from error
    if weights and adapter.dropout:
        _drop_out(adapted, adapter.dropout)
    return adapted


def _drop_out(adapted: "PeftModel", share: float) -> None:
    """Dropout before the matrices of linear layers, where those of fused experts forbid it in the configuration."""
    from peft.tuners.lora import ParamWrapper
    from peft.tuners.lora.layer import LoraLayer

    for layer in adapted.modules():
        if isinstance(layer, LoraLayer) and not isinstance(layer, ParamWrapper):
            for name in layer.lora_dropout:
                layer.lora_dropout[name] = nn.Dropout(share)


def adapter_remark(model: PreTrainedModel, adapter: recipe.Adapter, token_ids: Sequence[int] = ()) -> str:
    """A sentence about what is adapted, before `add_adapter`."""
    num = num_adapter_parameters(model, adapter, token_ids)
    remark = f"adapter: {num:,} trained parameters beside {adapted_share(model, adapter):.0%} of the layer weights"
    if adapter.dropout and _targets(model, adapter)[1]:
        remark += "; dropout at linear layers only, not at fused experts"
    if is_quantized(model) and (frozen := _mistaken(model, _wanted(model, adapter)[0])):
        names = dict.fromkeys(".".join(name.split(".")[-2:]) for name in frozen)
        remark += (
            f"; not at {plural(len(frozen), 'linear layer')} beside fused experts ({', '.join(names)}), held in 4 bits"
        )
    return remark


def adapted_share(model: PreTrainedModel, adapter: recipe.Adapter) -> float:
    """Share of the model's layer weights (neither embedding nor head) that the adapter stands beside."""
    decoder, embedding = model.get_decoder(), model.get_input_embeddings().weight
    shapes = {id(layer.weight): _shape(layer) for _, layer in linear_layers(model)}
    matrices = [weight for weight in decoder.parameters() if weight.ndim > 1 and weight is not embedding]
    adapted = sum(map(math.prod, _adapted(model, adapter)))
    whole = sum(math.prod(shapes.get(id(weight), tuple(weight.shape))) for weight in matrices)
    return float(adapted / whole)


def _adapted(model: PreTrainedModel, adapter: recipe.Adapter) -> list[tuple[int, ...]]:
    """Shapes of the weights that the adapter stands beside, as [out, in] or [experts, …, …]."""
    layers, weights = _targets(model, adapter)
    linear, fused = dict(linear_layers(model)), dict(expert_weights(model))
    named = [tuple(fused[name].shape) if name in fused else _shape(linear[name.removesuffix(".weight")])
             for name in weights]  # fmt: skip
    return [*(_shape(linear[name]) for name in layers), *named]


def _shape(layer: nn.Linear | Conv1D) -> tuple[int, ...]:
    """Of its weight, which 4 bits hold as one long column."""
    return (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)


def load_adapter(model: PreTrainedModel, folder: Path) -> "PeftModel":
    """Put a saved adapter into its base model, in place; not to be trained on."""
    from peft import PeftModel

    with quiet():
        adapted: PeftModel = PeftModel.from_pretrained(model, str(folder))
    adapted.eval()
    return adapted


def save_adapter(adapted: "PeftModel", folder: Path) -> None:
    """Write the adapter alone, in peft's format; the folder appears complete or not at all."""
    aside = folder.with_name(f".{folder.name}")
    for old in (aside, folder):
        shutil.rmtree(old, ignore_errors=True)
    with quiet():
        adapted.save_pretrained(str(aside), save_embedding_layers=False)
    for weights in aside.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors makes them private
    aside.rename(folder)


def merge(adapted: "PeftModel", folder: Path) -> PreTrainedModel:
    """The adapted model as a plain one with the same logits, in evaluation mode.

    LoRA is merged in place. What is quantized stays as it is: a copy on the CPU gets the weights that the 4 bits stand
    for, since the adapter was trained on those, and merging into 4 bits would round the adapter away.

    Args:
        folder: where `save_adapter` wrote it.
    """
    with quiet():
        if is_quantized(unwrapped(adapted)):
            plain = copy.deepcopy(adapted).unload().to("cpu")
            adapted = load_adapter(plain.dequantize(dtype=plain.dtype), folder)
        merge_tokens(adapted)
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged.eval()


def unwrapped(model: Any) -> PreTrainedModel:
    """The transformers model inside an adapted one; any other as it is."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner


def num_adapter_parameters(model: PreTrainedModel, adapter: recipe.Adapter, token_ids: Sequence[int] = ()) -> int:
    """How many parameters `add_adapter` would train."""
    found = adapter.rank * sum(math.prod(shape[:-2]) * sum(shape[-2:]) for shape in _adapted(model, adapter))
    tied = model.config.tie_word_embeddings
    width = model.get_input_embeddings().weight.shape[1]
    return found + len(token_ids) * int(width) * (1 if tied else 2)


def linear_layers(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """The linear layers that make text: neither the head nor those of a vision or audio part."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    inside = set(decoder.modules())
    for name, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear | Conv1D) and "Router" not in type(module).__name__
        if is_linear and module in inside and module is not head:
            yield name, module


def expert_weights(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights [experts, …, …] of fused experts, which are no linear layers."""
    for prefix, module in model.get_decoder().named_modules():
        if not type(module).__module__.startswith("torch.nn"):  # a convolution
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3:
                    yield f"{prefix}.{name}", parameter


def _targets(model: PreTrainedModel, adapter: recipe.Adapter) -> tuple[list[str], list[str]]:
    """Full names of the linear layers, and of the weights of fused experts and other layers, as peft is given them.

    Beside fused experts, peft takes a linear layer that is named like a part of them (a shared expert's `up_proj`) for
    that part of an older checkpoint: its weight is named instead, or in 4 bits, where it has no shape, neither.

    Raises:
        ModelError: a name that neither has.
    """
    layers, experts = _wanted(model, adapter)
    mistaken = _mistaken(model, layers)
    weights = [] if is_quantized(model) else [f"{name}.weight" for name in mistaken]
    return [name for name in layers if name not in mistaken], [*experts, *weights]


def _wanted(model: PreTrainedModel, adapter: recipe.Adapter) -> tuple[list[str], list[str]]:
    """Full names of the linear layers, and of the weights of fused experts, that the recipe means."""
    layers, experts = ([name for name, _ in each(model)] for each in (linear_layers, expert_weights))
    if adapter.targets in EVERY_LAYER:
        bypassed = tuple(end for end, kinds in BYPASSED.items() if model.config.model_type in kinds)
        return [name for name in layers if not name.endswith(bypassed)], experts
    found = {
        target: [name for name in (*layers, *experts) if f".{name}".endswith(f".{target}")]
        for target in adapter.targets
    }
    if missing := next((target for target in found if not found[target]), None):
        short = sorted({name.rpartition(".")[2] for name in (*layers, *experts)})
        what = f"{type(model).__name__} has no linear layer {missing!r}{nearest_or_all(missing, short)}"
        raise ModelError(what, where="train.adapter.targets", hint=f"use auto, or some of: {', '.join(short)}")
    wanted = {name for names in found.values() for name in names}
    return [name for name in layers if name in wanted], [name for name in experts if name in wanted]


def _mistaken(model: PreTrainedModel, layers: Iterable[str]) -> list[str]:
    """Linear layers that peft takes for parts of fused experts: those of shared experts, and of dense layers beside."""
    has_experts = next(expert_weights(model), None) is not None
    return [name for name in layers if has_experts and name.rpartition(".")[2] in EXPERT_PARTS]


def _embeddings(model: PreTrainedModel) -> list[str]:
    """Full names of the embedding, and of the head where it has weights of its own."""
    wanted = [model.get_input_embeddings()]
    if not model.config.tie_word_embeddings:
        wanted.append(model.get_output_embeddings())
    return [next(name for name, module in model.named_modules() if module is layer) for layer in wanted]


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    training = model.training
    model.eval()
    try:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits.float()
        return logits
    finally:
        model.train(training)
