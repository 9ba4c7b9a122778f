"""What a run will do, in the terminal before it does it: the plan, the memory, the cost of the proof."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seodang.recipe import Part, Recipe
from seodang.recipe_rules import BY_TOLERANCE
from seodang.run.checkpoint_choice import STOPPING_SHARE
from seodang.show.formatting import duration, percent, plural, visible, visible_line
from seodang.show.terminal.console import get_console, quiet_table, show_title
from seodang.types import ProofCost

if TYPE_CHECKING:
    from seodang.model.load import Placement
    from seodang.train.resources import MemoryPlan


def show_plan(recipe: Recipe, placement: "Placement | None" = None, *, out: Console | None = None) -> None:
    """What will be done: every setting as KEY=VALUE, those that the recipe leaves to their default apart."""
    out = out or get_console()
    show_title(out, recipe.name)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", min_width=8)
    grid.add_column(overflow="fold")
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
    questions = ", ".join(f"{count} {kind}" for kind, count in asked.items())
    grid.add_row("ask", Text(f"{questions} questions{again}"))
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
    """The recipe that was written, what was guessed, and the next two commands."""
    out = out or get_console()
    out.print(Text(visible(yaml.rstrip())), soft_wrap=True)
    out.print()
    for remark in remarks:
        out.print(Text("· " + visible(remark), style="dim"))
    name = visible_line(str(path))
    if not is_written:
        out.print(Text(f"not written (--dry-run): {name}"))
        return
    out.print(Text(f"written {name}; now: seodang inspect {name}, then seodang tune {name}"))


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


def show_cost(cost: ProofCost, *, out: Console | None = None) -> None:
    """What the proof will read and write, and about how long it will take: one line."""
    about = f"about {duration(cost.seconds)}" if cost.seconds is not None else "of unknown duration"
    text = (
        f"the proof, {about} for base and tuned model together: each reads {plural(cost.sequences, 'sequence')} of "
        f"{plural(cost.tokens, 'token')} and writes {plural(cost.answers, 'answer')} of at "
        f"most {cost.answer_tokens:,} tokens (from {cost.gflops:,.0f} GFLOPS, measured)"
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
