"""What a run will do, in the terminal before it does it: the plan, the memory, the cost of the proof."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seodang.recipe import Part, Recipe, Source, Train
from seodang.recipe_rules import BY_TOLERANCE
from seodang.run.checkpoint_choice import STOPPING_SHARE
from seodang.run.folder import BASE, RECIPE, Run, checkpoint_step
from seodang.show.formatting import duration, percent, plural, visible, visible_line
from seodang.show.terminal.console import get_console, quiet_table, show_title
from seodang.show.terminal.verbosity import is_verbose
from seodang.types import ProofCost
from seodang.user_paths import shown_path

if TYPE_CHECKING:
    from seodang.train.resources import MemoryPlan
    from seodang.types import Placement

DEVICE = "Device: "  # begins the reason that names it
LISTED_SOURCES = 4  # one by one
ADAPTERS = {"lora": "LoRA", "qlora": "QLoRA"}


def show_plan(
    recipe: Recipe,
    placement: "Placement | None" = None,
    *,
    num_parameters: int | None = None,
    folder: Path | None = None,
    will_train: bool = True,
    out: Console | None = None,
) -> None:
    """What will be done, in five lines; with --verbose every setting, too.

    Args:
        num_parameters: of the model; none: unknown.
        folder: the run's, where all settings are written; none: nothing is written.
        will_train: False: the model is measured only.
    """
    out = out or get_console()
    show_title(out, recipe.name)
    grid = _plan_grid()
    grid.add_row("model", visible(_model(recipe, placement, num_parameters)))
    grid.add_row("data", visible(_data(recipe.sources)))
    if will_train:
        grid.add_row("training", _training(recipe.train))
    grid.add_row("measured", _measured(recipe, will_train=will_train))
    if folder:
        file = visible_line(shown_path(folder / RECIPE))
        more = "" if is_verbose() else "; --verbose prints them"
        grid.add_row("writes to", f"{visible_line(shown_path(folder))}; all settings: {file}{more}")
    elif not is_verbose():
        grid.add_row("settings", "--verbose prints all, with their defaults")
    out.print(grid)
    if is_verbose():
        out.print()
        _show_settings(recipe, placement, out)


def show_resumed(run: Run, steps: int, *, out: Console | None = None) -> None:
    """How far a run came that is resumed, and what is left.

    Args:
        steps: of the whole training.
    """
    out = out or get_console()
    show_title(out, f"{run.folder.name}, resumed")
    checkpoint, left = run.last_checkpoint(), ["measuring the tuned model"]
    if run.is_trained:
        reached = "training has ended"
    elif checkpoint:
        step = checkpoint_step(checkpoint)
        reached = f"step {step:,} of {steps:,}"
        left = [f"training from step {step + 1:,}" if step < steps else "saving the model", *left]
    else:
        is_measured = (run.folder / BASE).is_file()
        reached = "the base is measured" if is_measured else "nothing is measured yet"
        left = [*(() if is_measured else ("measuring the base",)), "training", *left]
    grid = _plan_grid()
    grid.add_row("reached", reached)
    grid.add_row("left", ", ".join(left))
    more = "" if is_verbose() else "; --verbose prints plan and data again"
    grid.add_row("settings", f"{visible_line(shown_path(run.recipe_file))}{more}")
    out.print(grid)


def _plan_grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", min_width=8)
    grid.add_column(overflow="fold")
    return grid


def _model(recipe: Recipe, placement: "Placement | None", num_parameters: int | None) -> str:
    """Which model, how large, where it runs and how exactly it computes."""
    size = f", {_rounded(num_parameters)} parameters" if num_parameters else ""
    if placement is None:
        return f"{recipe.model.path}{size}"
    device = next((reason for reason in placement.reasons if reason.startswith(DEVICE)), placement.device)
    exact, fast = placement.dtype, placement.compute_dtype
    precision = exact if exact == fast else f"{exact} weights, {fast} products"
    return f"{recipe.model.path}{size}; {device.removeprefix(DEVICE).rstrip('.')}; {precision}"


def _rounded(count: int) -> str:
    """`268M`, `1.7B`."""
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M" if count >= 1e7 else f"{count:,}"


def _data(sources: Sequence[Source]) -> str:
    """Each source with what of it is held out, and its role; more than a few are joined by role."""
    if len(sources) <= LISTED_SOURCES:
        return "held out: " + ", ".join(f"{one.name} {_held_out(one)} ({_role(one)})" for one in sources)
    by_role: dict[str, list[str]] = {}
    by_part: dict[str, list[str]] = {}
    for one in sources:
        by_role.setdefault(_role(one), []).append(one.name)
        by_part.setdefault(_held_out(one), []).append(one.name)
    roles = "; ".join(f"{len(names)} {role} ({_names(names)})" for role, names in by_role.items())
    parts = ", ".join(f"{part} of {_names(names)}" for part, names in by_part.items())
    return f"{roles}; held out: {f'{next(iter(by_part))} of each' if len(by_part) == 1 else parts}"


def _role(source: Source) -> str:
    return source.role if source.is_trained else f"{source.role}, not trained on"


def _held_out(source: Source) -> str:
    share = source.holdout_share
    return "all rows" if share == math.inf else f"{100 * share:g}%" if share < 1 else f"{round(share):,}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - LISTED_SOURCES
    return ", ".join(names[:LISTED_SOURCES]) + (f" and {more:,} more" if more > 0 else "")


def _training(settings: Train) -> str:
    """How long, on how much, how fast, and of which weights."""
    examples = plural(settings.examples_per_step, "example")
    if settings.steps:
        length = f"{plural(settings.steps, 'step')} of {examples}"
    else:
        length = f"{settings.epochs:g} {'pass' if settings.epochs == 1 else 'passes'} over the rows, {examples} a step"
    adapter = settings.adapter
    what = f"{ADAPTERS[adapter.kind]} adapter of rank {adapter.rank}" if adapter else "all weights"
    return f"{length}, at most {settings.max_tokens:,} tokens each; learning rate {settings.learning_rate:g}; {what}"


def _measured(recipe: Recipe, *, will_train: bool) -> str:
    """Which losses, and answers to how many questions."""
    ask, often = recipe.ask, _how_often(recipe.train.eval_every, recipe.train.steps)
    own = len(ask.domain) + len(ask.general) + (ask.repeat is not None)
    asked = [plural(own, "question")] if own else []
    asked += [f"at most {plural(ask.holdout, 'held-out one')} of each source with answers"] if ask.holdout else []
    answers = f"; answers to {' and '.join(asked)}" if asked else "; no questions are asked"
    return f"losses{f', also {often}' if will_train else ''}{answers}"


def _how_often(every: int | None, steps: int | None) -> str:
    """When the evaluations of training are: the last one is at its end."""
    if steps and (every or 0) >= steps:
        return "after training"
    if every:
        return f"every {plural(every, 'step')}"
    return "after every step" if steps and steps <= 10 else "ten times during training"


def _show_settings(recipe: Recipe, placement: "Placement | None", out: Console) -> None:
    """Every setting as KEY=VALUE, those that the recipe leaves to their default apart."""
    grid = _plan_grid()
    grid.add_row("model", _settings(recipe.model))
    for reason in placement.reasons if placement else ():
        grid.add_row("", Text(visible(reason), style="dim"))
    grid.add_row("template", _settings(recipe.template))
    if recipe.system:
        grid.add_row("system", Text(visible(recipe.system)))
    for source in recipe.sources:
        grid.add_row("source", _settings(source, skip=() if source.hub else ("split",)))
    for name in ("split", "mix", "train"):
        grid.add_row(name, _settings(getattr(recipe, name)))
    if recipe.train.best_by == BY_TOLERANCE:
        grid.add_row("", Text(_kept_checkpoint(recipe), style="dim"))
    asked = {kind: len(getattr(recipe.ask, kind)) for kind in ("domain", "general")} | {"holdout": recipe.ask.holdout}
    again = f", one question {recipe.ask.repeat.times} times" if recipe.ask.repeat else ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in asked.items())
    grid.add_row("ask", Text(f"questions: {kinds}{again}"))
    grid.add_row("generate", _settings(recipe.ask.generate))
    out.print(grid)


def _kept_checkpoint(recipe: Recipe) -> str:
    """Which checkpoint is kept where tolerances limit the choice."""
    general, retention = recipe.prove.tolerance.general, recipe.prove.tolerance.retention
    share = percent(STOPPING_SHARE)
    stops = f", while at least {share} of the answers end by themselves" if recipe.train.ask_every else ""
    return (
        f"Checkpoint: the lowest loss on the domain, with a rise over the base of at most {general:g} nats per token "
        f"on general answers and {retention:g} bits per byte on text that is not trained on{stops}; else the least bad."
    )


def show_starter(
    path: Path, yaml: str, remarks: Sequence[str], *, is_written: bool = True, out: Console | None = None
) -> None:
    """The recipe that was written, and what was guessed."""
    out = out or get_console()
    out.print(Text(visible(yaml.rstrip())), soft_wrap=True)
    out.print()
    for remark in remarks:
        out.print(Text("· " + visible(remark), style="dim"))
    name = visible_line(str(path))
    if not is_written:
        out.print(Text(f"not written (--dry-run): {name}"))
        return
    out.print(Text(f"written {name}"))


def show_memory(found: "MemoryPlan | None", *, as_table: bool = True, out: Console | None = None) -> None:
    """Bytes by what they are for: as a table, or in one line. Nothing where there is no estimate."""
    out = out or get_console()
    if found is None:
        return
    if not as_table:
        out.print(Text(found.summary, style="dim"))
        return
    usage = found.usage
    parts = {
        "weights": usage.weights,
        "gradients": usage.gradients,
        "optimizer": usage.states,
        "activations": usage.activations,
        "logits": usage.logits,
        "process": found.process,
        "peak": found.peak,
        "available": found.available,
    }
    table = quiet_table(*(f"{name}>" for name in parts))
    table.add_row(
        *(Text(f"{size / 1e9:.2f} GB", style="bold" if name == "peak" else "") for name, size in parts.items())
    )
    show_title(out, "memory of training, estimated")
    out.print(table)
    remark = (
        f"{found.pack_tokens:,} tokens a pack, the largest holds {found.positions:,}; "
        f"gradient checkpointing: {found.checkpointing}. Not all of it is taken at the same time."
    )
    out.print(Text(remark, style="dim"))


def show_training_time(seconds: float, *, out: Console | None = None) -> None:
    """About how long training will take, its evaluations included: one line."""
    (out or get_console()).print(Text(f"training, about {duration(seconds)}", style="dim"))


def show_cost(cost: ProofCost, *, out: Console | None = None) -> None:
    """What the proof will read and write, and about how long it will take: one line."""
    about = f"about {duration(cost.seconds)}" if cost.seconds is not None else "of unknown duration"
    who = {
        "all": "for base and tuned model together: each reads",
        "answers": "for the tuned model and the base's answers, as the base's losses are known: the tuned model reads",
        "nothing": "for the tuned model alone, as the base was measured already: it reads",
    }
    writes = "each writes" if cost.of_base == "answers" else "writes"
    text = (
        f"the proof, {about} {who[cost.of_base]} {plural(cost.sequences, 'sequence')}, "
        f"{plural(cost.tokens, 'token')} in all, and {writes} {plural(cost.answers, 'answer')}, at "
        f"most {cost.answer_tokens:,} tokens in all (from {cost.gflops:,.0f} GFLOPS, measured)"
    )
    (out or get_console()).print(Text(text, style="dim"))


def _settings(part: Part, *, skip: Sequence[str] = ()) -> Text:
    """A section's settings as KEY=VALUE; on a line of their own the defaults; what is absent is left out."""
    values = {key: getattr(part, key) for key in type(part).model_fields if key not in skip}
    shown = {key: _setting(value) for key, value in values.items() if value is not None and value != ()}
    own = "  ".join(f"{key}={value}" for key, value in shown.items() if key in part.model_fields_set)
    default = "  ".join(f"{key}={value}" for key, value in shown.items() if key not in part.model_fields_set)
    text = Text(visible(own))
    return text.append(("\n" if own else "") + "default: " + visible(default), style="dim") if default else text


def _setting(value: Any) -> str:
    if isinstance(value, Part):
        return "{" + ", ".join(f"{key}: {_setting(item)}" for key, item in value if item is not None) + "}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_setting(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return ",".join(map(_setting, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value).replace("\n", "\\n") or '""'
