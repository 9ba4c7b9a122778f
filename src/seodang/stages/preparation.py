"""The data part of the line, and a model put beside it: all that training and measuring need on the desk."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seodang import distributed
from seodang.check.audit import audit
from seodang.check.rendered import findings
from seodang.data.encode.rows import Renderer
from seodang.data.prepare import Gathered, Prepared, RenderedSources, gather, join, render_sources
from seodang.data.row_cache import Store, rows_key, sources_key
from seodang.data.template.find import ChatTemplate, apply_template, find_template
from seodang.errors import GateError, SeodangError
from seodang.recipe import Model, Recipe
from seodang.show import console, tables

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from seodang.model.engine.engine import Engine
    from seodang.model.load import Placement
    from seodang.train.resources import MemoryPlan


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the data part of the line leaves on the desk: everything but a model."""

    recipe: Recipe
    placement: "Placement"
    tokenizer: "PreTrainedTokenizerBase"  # as it will be saved, with the template that is trained
    template: ChatTemplate
    renderer: Renderer
    prepared: Prepared
    pack_tokens: int  # positions of one forward pass
    memory: "MemoryPlan | None" = None  # unknown until it was asked for, or where it cannot be estimated

    @property
    def is_four_bit(self) -> bool:
        adapter = self.recipe.train.adapter
        return adapter is not None and adapter.kind == "qlora"

    @property
    def new_tokens(self) -> list[int]:
        """Ids of markers that the base may never have seen: an adapter trains their embeddings too."""
        ids = [id for _, id in self.template.markers if id != self.tokenizer.bos_token_id]
        return ids if self.template.is_new else []


def set_up(recipe: Recipe) -> Desk:
    """The data part of the line: no weights are loaded."""
    import datasets

    from seodang.model.load import choose_placement, load_config, load_tokenizer
    from seodang.train.setup import pack_tokens
    from seodang.user_cache import cache_folder

    placement = choose_placement(recipe.model, frozen=recipe.train.adapter is not None)
    tables.show_plan(recipe, placement)
    spec = recipe.model
    num_embeddings = load_config(spec).get_text_config().vocab_size
    datasets.disable_progress_bars()  # what is being done is shown by `console`
    tokenizer = load_tokenizer(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    store = Store(cache_folder() / "prepared", console.show_note)
    sources = sources_key(recipe.sources, recipe.split)
    thinking = store.has_thinking(sources)
    gathered = _gathered(recipe) if thinking is None else None
    template = find_template(
        tokenizer,
        recipe.template,
        num_embeddings=num_embeddings,
        load_tokenizer=load_tokenizer,
        system=recipe.system,
        thinking=gathered.has_thinking if gathered else bool(thinking),
    )
    apply_template(tokenizer, template)
    renderer = Renderer(tokenizer, template, recipe.system, recipe.train.loss_on)
    prepared = join(
        _rendered(recipe, gathered, renderer, store, sources), recipe.mix, max_tokens=recipe.train.max_tokens
    )
    found = findings(prepared, renderer, num_embeddings=num_embeddings)
    return Desk(
        recipe=recipe,
        placement=placement,
        tokenizer=tokenizer,
        template=template,
        renderer=renderer,
        prepared=replace(prepared, findings=(*prepared.findings, *found)),
        pack_tokens=pack_tokens(recipe.train, placement.device),
    )


def fit_memory(desk: Desk) -> Desk:
    """Choose what the recipe leaves to the memory that is there: gradient checkpointing and the token budget.

    Several ranks choose alike, by the one that has the least.
    """
    from seodang.data.pack import Plan
    from seodang.model.load import load_config
    from seodang.train import resources
    from seodang.train.memory_estimate import make_estimator
    from seodang.train.setup import choose_optimizer, total_steps

    settings, device, rows = desk.recipe.train, desk.placement.device, desk.prepared.rows["train"]
    plan = Plan(num_rows=len(rows), examples_per_step=settings.examples_per_step, seed=settings.seed)
    steps = total_steps(settings, len(rows))
    process = max(distributed.exchange(resources.process_memory(device, desk.placement.compute_dtype)))
    available = min(distributed.exchange(resources.available_memory(device)))
    try:
        found = resources.plan_memory(
            make_estimator(
                load_config(desk.recipe.model),
                settings,
                desk.placement,
                optimizer=choose_optimizer(settings.optimizer, device).name,
                num_embeddings=len(desk.tokenizer) if desk.template.added else 0,
                token_ids=tuple(desk.new_tokens),
                trust_remote_code=desk.recipe.model.trust_remote_code,
            ),
            settings,
            device,
            lambda budget: resources.largest_step(rows, plan, budget, steps=steps),
            pack_tokens=desk.pack_tokens,
            available=available,
            process=process,
        )
    except SeodangError:
        raise
    except Exception as error:  # an architecture whose operations depend on data; torch and transformers raise anything
        console.show_note(f"memory: no estimate for this architecture ({type(error).__name__})")
        return desk
    warning = resources.memory_finding(found, settings, device)
    prepared = replace(desk.prepared, findings=(*desk.prepared.findings, warning)) if warning else desk.prepared
    return replace(desk, prepared=prepared, memory=found, pack_tokens=found.pack_tokens)


def _gathered(recipe: Recipe) -> Gathered:
    gathered = gather(recipe.sources, recipe.split)
    return replace(gathered, findings=tuple(audit(gathered.splits, recipe.split)))


def _rendered(
    recipe: Recipe, gathered: Gathered | None, renderer: Renderer, store: Store, sources: str
) -> RenderedSources:
    """The rows as an earlier start left them, or prepared now."""
    made = False
    settings = recipe.train

    def make(folder: Path | None) -> RenderedSources:
        nonlocal made
        made = True
        rows = gathered or _gathered(recipe)
        with console.counting("rows rendered, tokenised and masked", rows.num_rows) as advance:
            return render_sources(
                rows, renderer, max_tokens=settings.max_tokens, too_long=settings.too_long, on_rows=advance, into=folder
            )

    rendered = store.get(rows_key(sources, renderer, max_tokens=settings.max_tokens, too_long=settings.too_long), make)
    if not made:
        console.show_line(f"rows rendered, tokenised and masked: as prepared before, in {store.folder}")
    return rendered


def show_data(desk: Desk) -> None:
    """Everything the data part found, in the terminal."""
    tables.show_counts(desk.prepared.counts)
    tables.show_findings(desk.prepared.findings)
    tables.show_template(desk.template)
    tables.show_samples(desk.prepared.samples)
    tables.show_lengths(desk.prepared.lengths)


def refuse_findings(desk: Desk) -> None:
    """Stop before anything is trained if the data must not be trained on.

    Raises:
        GateError: names what was found and the mend.
    """
    refused = [finding for finding in desk.prepared.findings if finding.severity == "refuse"]
    if refused:
        raise GateError("; ".join(f.what for f in refused), where=refused[0].where, hint=refused[0].hint)


def refuse_adapter(recipe: Recipe) -> None:
    """Stop before anything is prepared if the recipe's adapter cannot be trained here.

    Raises:
        ResourceError: a package or the hardware is missing.
    """
    if recipe.train.adapter:
        from seodang.model.load import choose_placement
        from seodang.train.adapter import check_adapter

        check_adapter(recipe.train.adapter, choose_placement(recipe.model).device)


def load_base(desk: Desk, spec: Model | None = None, *, four_bit: bool = False) -> "PreTrainedModel":
    """The recipe's model (or another of the same vocabulary), with rows for tokens that the template added."""
    import torch

    from seodang.model.load import load_model
    from seodang.model.quiet import quiet

    model = load_model(spec or desk.recipe.model, desk.placement, four_bit=four_bit)
    if four_bit:
        console.show_note("the base is measured in 4 bits, as it is trained beside; `seodang prove` takes it whole")
    if desk.template.added:
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(desk.recipe.train.seed)  # of the new rows, drawn around the old ones' mean
            model.resize_token_embeddings(len(desk.tokenizer))
    return model


def make_engine(desk: Desk, model: "PreTrainedModel", *, trained: bool = False) -> "Engine":
    """How packs run on this model, tried on a few of its own rows.

    Args:
        trained: the recipe's run is still to come.
    """
    import numpy as np
    import torch

    from seodang.data.arrow import read_columns
    from seodang.model.engine.engine import choose_engine
    from seodang.train.setup import is_worth_compiling

    rows = next(side for side in desk.prepared.rows.values() if len(side))
    lengths = read_columns(desk.prepared.rows["train"], "num_tokens")["num_tokens"].to_numpy()
    placement = desk.placement
    trained_dtype = "float32" if desk.recipe.train.adapter else placement.dtype  # an adapter's own, beside any weights
    engine = choose_engine(
        model,
        [np.asarray(ids, dtype=np.int32) for ids in rows[:3]["input_ids"]],
        packed=placement.attention == "packed",
        fused=trained and is_worth_compiling(desk.recipe.train, lengths),
        compute_dtype=getattr(torch, placement.compute_dtype) if placement.compute_dtype != trained_dtype else None,
    )
    for remark in engine.remarks:
        console.show_note(remark)
    return engine
