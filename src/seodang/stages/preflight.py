"""What is settled before training: where the model runs, what training takes of memory and disk; loads the model.

Placement, configuration, optimizer, token budget and gradient checkpointing are resolved once, here, and handed on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow.compute as pc
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from seodang import distributed, recipe
from seodang.check.rendered import answers_beyond_context, rows_beyond_context
from seodang.data.arrow import read_columns
from seodang.data.pack import Plan
from seodang.data.prepare import Prepared
from seodang.data.template.renderer import Renderer
from seodang.errors import GateError, SeodangError
from seodang.model.checkpoint import on_meta
from seodang.model.context_length import max_positions, positions_are_learnt
from seodang.model.engine.engine import Engine, choose_engine
from seodang.model.load import (
    check_untaken,
    grow_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
)
from seodang.model.placement import choose_placement
from seodang.proof.questions import Question
from seodang.run.folder import Run
from seodang.show.terminal import console
from seodang.train import resources
from seodang.train.adapter import check_adapter, num_adapter_parameters
from seodang.train.memory_estimate import make_estimator
from seodang.train.resources import MemoryPlan
from seodang.train.setup import BF16_ADAMW, Optimizer, choose_optimizer, is_worth_compiling, pack_tokens, total_steps
from seodang.types import Checkpointing, Finding, Placement

TRIED_ROWS = 32  # of each holdout, on which two tokenizers are compared


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model of a recipe, as far as it is known without its weights."""

    spec: recipe.Model
    placement: Placement
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase  # with a chat template once `make_renderer` has found one

    @property
    def num_embeddings(self) -> int:
        """Rows of the embedding, before any is added."""
        return int(self.config.get_text_config().vocab_size)

    @cached_property
    def on_meta(self) -> PreTrainedModel | None:
        """The model without its weights; none where its architecture cannot be made so."""
        return on_meta(self.config, trust_remote_code=self.spec.trust_remote_code)

    @property
    def num_parameters(self) -> int | None:
        """Of the whole model, where that is known."""
        return self.on_meta.num_parameters() if self.on_meta else None


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything that comes before a model's weights: the base, what renders its rows, the rows."""

    base: Base
    renderer: Renderer
    prepared: Prepared  # with all that was found

    def with_findings(self, findings: Sequence[Finding]) -> Self:
        """The same, with what was found later."""
        return replace(self, prepared=replace(self.prepared, findings=(*self.prepared.findings, *findings)))


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What the recipe leaves to the machine, resolved once."""

    optimizer: Optimizer
    pack_tokens: int  # positions of one forward pass
    checkpointing: Checkpointing | None = None  # none: as the recipe says
    memory: MemoryPlan | None = None  # none where it cannot be estimated
    findings: tuple[Finding, ...] = ()


def place(spec: recipe.Model, settings: recipe.Train, *, will_train: bool) -> Placement:
    """Choose device, precision and attention.

    Args:
        will_train: stop before anything is prepared if the recipe's adapter cannot be trained here.

    Raises:
        ResourceError: the device that the recipe asks for, or that its adapter needs, is missing.
    """
    is_sharded = distributed.wants_sharding() and distributed.world() > 1
    rounding = settings.optimizer == BF16_ADAMW and not is_sharded
    placement = choose_placement(spec, frozen=settings.adapter is not None, stochastic_rounding=rounding)
    if will_train and settings.adapter:
        check_adapter(settings.adapter, placement.device)
    return placement


def resolve_base(spec: recipe.Model, placement: Placement) -> Base:
    """Find the model's configuration and its tokenizer.

    Raises:
        ModelError: the model or its tokenizer cannot be used.
    """
    return Base(
        spec=spec,
        placement=placement,
        config=load_config(spec),
        tokenizer=load_tokenizer(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code),
    )


def has_template(spec: recipe.Model, path: str) -> bool:
    """Whether a base came with a chat template, so that it may have been trained on it."""
    tokenizer = load_tokenizer(path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    return bool(tokenizer.chat_template)


def reads_alike(base: Base, path: str, prepared: Prepared) -> bool:
    """Whether another model reads text as this one does: tokens that one of them has added do not matter.

    Tried on contents of held-out rows.
    """
    spec = base.spec
    other = load_tokenizer(path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    own_ids, other_ids = base.tokenizer.get_vocab().items(), other.get_vocab().items()
    if not (own_ids <= other_ids or other_ids <= own_ids):
        return False
    texts = [
        text
        for rows in prepared.holdouts.values()
        for row in rows.select(range(min(len(rows), TRIED_ROWS)))
        for text in ([turn.get("content") or "" for turn in row["messages"]] or [row["text"]])
    ]
    own, theirs = (one(texts, add_special_tokens=False)["input_ids"] for one in (base.tokenizer, other))
    return bool(own == theirs)


def plan_training(inputs: Inputs, settings: recipe.Train) -> TrainingPlan:
    """Choose the optimizer; gradient checkpointing and token budget by the memory that is available.

    Several ranks choose alike, by the one that has the least.
    """
    base, renderer, rows = inputs.base, inputs.renderer, inputs.prepared.rows["train"]
    device = base.placement.device
    rounds = base.placement.rounds_stochastically
    optimizer = choose_optimizer(settings.optimizer, device, rounds_stochastically=rounds)
    budget = pack_tokens(settings, device)
    order = Plan(num_rows=len(rows), examples_per_step=settings.examples_per_step, seed=settings.seed)
    steps = total_steps(settings, len(rows))
    process = max(distributed.exchange(resources.process_memory(device, base.placement.compute_dtype)))
    available = min(distributed.exchange(resources.available_memory(device)))
    try:
        memory = resources.plan_memory(
            make_estimator(
                base.config,
                settings,
                base.placement,
                optimizer=optimizer.name,
                num_embeddings=len(base.tokenizer) if renderer.template.added else 0,
                token_ids=tuple(new_token_ids(renderer)),
                trust_remote_code=base.spec.trust_remote_code,
            ),
            settings,
            device,
            lambda tokens: resources.largest_step(rows, order, tokens, steps=steps),
            pack_tokens=budget,
            available=available,
            process=process,
        )
    except SeodangError:
        raise
    except Exception as error:  # an architecture whose operations depend on data; torch and transformers raise anything
        why = f"without {error.name}" if isinstance(error, ImportError) else "for this architecture"
        console.show_note(f"memory: no estimate {why} ({type(error).__name__})")
        return TrainingPlan(optimizer=optimizer, pack_tokens=budget)
    warning = resources.memory_finding(memory, settings, device)
    return TrainingPlan(
        optimizer=optimizer,
        pack_tokens=memory.pack_tokens,
        checkpointing=memory.checkpointing,
        memory=memory,
        findings=(warning,) if warning else (),
    )


def check_context(base: Base, prepared: Prepared, asked: Sequence[Question]) -> list[Finding]:
    """Findings on rows, and on questions with their answers, that the model's context does not hold."""
    positions = max_positions(base.config)
    if positions is None:
        return []
    needed: dict[str, int] = {}
    for question in asked:
        key = "ask.holdout_tokens" if question.kind == "holdout" else "ask.generate.max_new_tokens"
        prompt = base.tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
        needed[key] = max(needed.get(key, 0), len(prompt) + question.settings.max_new_tokens)
    found = list(answers_beyond_context(needed, positions=positions))
    if longest_row(prepared) > positions:
        learnt = positions_are_learnt(base.config, trust_remote_code=base.spec.trust_remote_code)
        found += rows_beyond_context(prepared, positions=positions, learnt=learnt)
    return found


def refuse_findings(findings: Sequence[Finding]) -> None:
    """Stop if something in the data must not be trained on.

    Raises:
        GateError: names all of it, and where the first is.
    """
    refused = [finding for finding in findings if finding.severity == "refuse"]
    if refused:
        raise GateError("; ".join(f.what for f in refused), where=refused[0].where, hint=refused[0].hint)


def load_base(base: Base, renderer: Renderer, *, seed: int, four_bit: bool = False) -> PreTrainedModel:
    """The model's weights, with rows of the embedding for tokens that the template added.

    Where base and tuned model are compared, both get as many rows as the tuned model's configuration says.

    Args:
        seed: draws the new rows.
        four_bit: hold the frozen weights in 4 bits.
    """
    model = load_model(base.spec, base.placement, four_bit=four_bit)
    if four_bit:
        console.show_note("the base is evaluated in 4-bit, as in QLoRA training; `seodang prove` uses full precision")
    added = len(renderer.tokenizer) if renderer.template.added else 0
    grow_vocabulary(model, max(base.num_embeddings, added), seed=seed)
    return model


def load_measured(inputs: Inputs, path: str, settings: recipe.Train) -> tuple[PreTrainedModel, Engine]:
    """One of two models that are compared, and how packs run on it.

    Args:
        path: of its weights, where the inputs are those of both models.
    """
    with distributed.agreed():
        spec = inputs.base.spec.model_copy(update={"path": path})
        model = load_base(replace(inputs.base, spec=spec), inputs.renderer, seed=settings.seed)
    return model, make_engine(model, inputs, settings)


def check_tensors(model: PreTrainedModel, base: Base) -> None:
    """Stop if a tuned model would lack tensors of its base; report those that are copied unchanged.

    Raises:
        ModelError: names what would be lost, and the recipe does not allow it.
    """
    if note := check_untaken(model, base.spec):
        console.show_note(note)


def head_stays(model: PreTrainedModel, settings: recipe.Train, save: recipe.Save, renderer: Renderer) -> bool:
    """Whether the tuned model is saved with the output head of its base: no adapter stands beside a head."""
    is_rounded = save.dtype != "auto" and getattr(torch, save.dtype) != model.dtype
    is_adapted = settings.adapter is not None and not settings.is_four_bit
    return is_adapted and not is_rounded and not new_token_ids(renderer)


def check_disk(
    run: Run,
    settings: recipe.Train,
    model: PreTrainedModel,
    renderer: Renderer,
    optimizer: Optimizer,
    *,
    proof_bytes: int,
) -> None:
    """Stop before anything is measured if the disk cannot take what training and proof write.

    Args:
        proof_bytes: what is kept of the base until the proof is done.

    Raises:
        ResourceError: says how much is free and how much is needed.
    """
    if run.is_trained:
        return
    adapter = settings.adapter
    resources.check_disk(
        run.folder,
        settings,
        parameters=model.num_parameters(),
        weight_bytes=model.dtype.itemsize,
        optimizer=optimizer.name,
        adapter_parameters=num_adapter_parameters(model, adapter, new_token_ids(renderer)) if adapter else None,
        proof_bytes=proof_bytes,
    )


def make_engine(model: PreTrainedModel, inputs: Inputs, settings: recipe.Train, *, will_train: bool = False) -> Engine:
    """How packs run on this model, tried on a few of its own rows.

    Args:
        will_train: training is still to come, so that compiling may be worth its time.
    """
    placement, prepared = inputs.base.placement, inputs.prepared
    rows = next(split for split in prepared.rows.values() if len(split))
    lengths = read_columns(prepared.rows["train"], "num_tokens")["num_tokens"].to_numpy()
    trained_dtype = "float32" if settings.adapter else placement.dtype  # an adapter's own, beside any weights
    engine = choose_engine(
        model,
        [np.asarray(ids, dtype=np.int32) for ids in rows[:3]["input_ids"]],
        packed=placement.attention == "packed",
        compiled=will_train and is_worth_compiling(settings, lengths),
        compute_dtype=getattr(torch, placement.compute_dtype) if placement.compute_dtype != trained_dtype else None,
        training_dtype=getattr(torch, placement.training_dtype) if will_train and placement.training_dtype else None,
        longest=longest_row(prepared),
        recompute=placement.rounds_stochastically,
    )
    for remark in engine.remarks:
        console.show_note(remark)
    return engine


def longest_row(prepared: Prepared) -> int:
    """Tokens of the longest row, trained on or held out."""
    splits = [split for split in (*prepared.rows.values(), *prepared.holdouts.values()) if len(split)]
    return max(int(pc.max(read_columns(split, "num_tokens")["num_tokens"]).as_py()) for split in splits)


def new_token_ids(renderer: Renderer) -> list[int]:
    """Ids of markers that the base may never have seen: an adapter trains their embeddings too."""
    template = renderer.template
    ids = [id for _, id in template.markers if id != renderer.tokenizer.bos_token_id]
    return ids if template.is_new else []
