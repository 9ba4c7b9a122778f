"""A run's evidence in the terminal, in the order of a run: plan, data, memory, losses, answers.

Readable at 100 columns, without colour too. Text that comes from data or a model is never read as markup, and its
control characters are shown, not obeyed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from seodang.data.template.find import ChatTemplate
from seodang.proof.behaviour import AnswerBehaviour, Kind
from seodang.proof.gain_parts import PARTS
from seodang.proof.proof import Proof
from seodang.proof.seeds import SeedsProof
from seodang.recipe import Part, Recipe
from seodang.recipe_rules import BY_TOLERANCE
from seodang.run.checkpoint_choice import STOPPING_SHARE
from seodang.show import sentences
from seodang.show.console import get_console
from seodang.show.formatting import (
    duration,
    fold,
    number,
    percent,
    plural,
    signed,
    visible,
    visible_line,
    whole,
)
from seodang.show.language import ENGLISH, Texts
from seodang.types import Answer, Counts, Finding, Lengths, ProofCost, Sample

if TYPE_CHECKING:
    from seodang.model.load import Placement
    from seodang.train.resources import MemoryPlan

SHOWN_CHARACTERS = 400  # of an answer; all of it stands in answers.jsonl and in the report
LOOP_CHARACTERS = 120  # of one that was cut off
SHOWN_DIFFERENT = 4  # answers to the question asked again
TONES = {"gained": "green", "same": "", "lost": "red", "broken": "red"}
SEVERITIES = {"refuse": "bold red", "warn": "yellow", "fixed": "green", "note": "dim"}


def show_plan(recipe: Recipe, placement: "Placement | None" = None, *, out: Console | None = None) -> None:
    """What will be done: every setting as KEY=VALUE, those that the recipe leaves to their default apart."""
    out = out or get_console()
    _title(out, recipe.name)
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


def show_counts(counts: Sequence[Counts], *, out: Console | None = None) -> None:
    """What each stage kept, dropped and changed, per source."""
    out = out or get_console()
    _title(out, "data")
    table = _table("source", "stage", "in>", "kept>", "dropped and changed")
    for source in dict.fromkeys(count.source for count in counts):
        for place, count in enumerate(row for row in counts if row.source == source):
            effects = Text()
            for sign, style, reasons in (("−", "yellow", count.dropped), ("~", "cyan", count.changed)):
                for reason, rows in reasons.items():
                    effects.append("\n" if effects else "").append(f"{sign}{rows:,} {visible(reason)}", style=style)
            for remark in count.remarks:
                effects.append("\n" if effects else "").append(visible(remark), style="dim")
            name = Text(visible(source) if place == 0 else "", style="bold")
            table.add_row(name, count.stage, whole(count.rows_in), whole(count.kept), effects)
    out.print(table)


def show_findings(findings: Sequence[Finding], *, out: Console | None = None) -> None:
    """Findings, the gravest first, each with how to fix it and example rows."""
    out = out or get_console()
    if not findings:
        return
    _title(out, "findings")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(min_width=6)
    grid.add_column(overflow="fold")
    for finding in sorted(findings, key=lambda finding: list(SEVERITIES).index(finding.severity)):
        text = Text(f"{visible_line(finding.where)}: {visible(finding.what)}")
        if finding.rows:
            text.append(
                f" ({', '.join(map(visible_line, finding.rows[:3]))}{', …' if len(finding.rows) > 3 else ''})",
                style="dim",
            )
        if finding.hint:
            text.append(f"\n→ {visible(finding.hint)}", style="dim")
        grid.add_row(Text(finding.severity, style=SEVERITIES[finding.severity]), text)
    out.print(grid)


def show_template(template: ChatTemplate, *, out: Console | None = None) -> None:
    """Where the chat template is from, and what ends a turn."""
    text = Text().append("template  ", style="bold").append(visible(template.origin))
    text.append(f"; an answer ends with {visible(template.turn_end)} (token {template.turn_end_id})")
    out = out or get_console()
    out.print()
    out.print(text)


def show_samples(samples: Mapping[str, Mapping[str, Sample]], *, out: Console | None = None) -> None:
    """The first rendered training row of each source, what is supervised marked."""
    out = out or get_console()
    _title(out, "first rows, ⟦supervised⟧")
    for source, splits in samples.items():
        row = splits.get("train") or splits.get("holdout")
        if not row:
            continue
        head = Text().append(f"{visible(source)} ", style="bold")
        out.print(head.append(visible_line(row.where), style="dim"))
        text, done = Text(), 0
        for start, end in row.supervised:
            text.append(visible(row.text[done:start]), style="dim")
            text.append("⟦" + visible(row.text[start:end]) + "⟧", style="green")
            done = end
        text.append(visible(row.text[done:]), style="dim")
        text.rstrip()
        out.print(Padding(text, (0, 0, 1, 2)))


def show_lengths(lengths: Lengths, *, out: Console | None = None) -> None:
    """Tokens per row, per source and split, and how many rows are above `max_tokens`."""
    out = out or get_console()
    _title(out, "tokens per row")
    above = f"above {lengths.max_tokens:,}>"
    table = _table("source", "part", "rows>", "median>", "mean>", "p95>", "longest>", "supervised>", above)
    for split, sources in (("train", lengths.train), ("holdout", lengths.holdout)):
        for source, row in sources.items():
            stats, cut = row.tokens, lengths.cut.get(source, 0)
            share = row.supervised.total / stats.total if stats.total else None
            counted = split == "train" or source not in lengths.train
            table.add_row(
                Text(visible(source), style="bold"),
                split,
                *(whole(stats.count), whole(stats.median), number(stats.mean, 1)),
                *(whole(stats.p95), whole(stats.max), percent(share), whole(cut) if counted else ""),
            )
    out.print(table)


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
    table = _table(*(f"{name}>" for name in parts))
    table.add_row(
        *(Text(f"{size / 1e9:.2f} GB", style="bold" if name == "peak" else "") for name, size in parts.items())
    )
    _title(out, "memory of training, estimated")
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


def show_proof(proof: Proof, texts: Texts = ENGLISH, *, out: Console | None = None) -> None:
    """The verdict; losses with their intervals, what the gain is made of, and how the answers behave."""
    out = out or get_console()
    _title(out, texts("table.verdict"))
    clauses = sentences.headline(proof, texts)
    line = Text()
    for place, (tone, clause) in enumerate(clauses):
        mark = texts("headline.join" if place < len(clauses) - 1 else "headline.end")
        line.append(visible(clause), style=f"bold {TONES[tone]}").append(mark)
    out.print(line)
    out.print(Text(sentences.not_judged(proof, texts), style="bold"))
    for sentence in sentences.sentences(proof, texts):
        out.print(Text(visible(sentence), style="dim"))
    for table in (_axes(proof, texts), _parts(proof, texts), _behaviour(proof, texts)):
        if table.row_count:
            out.print()
            out.print(table)


def show_seeds(found: SeedsProof, *, out: Console | None = None) -> None:
    """What several runs show together: each run's change, the spread between them, and the interval within rows."""
    out = out or get_console()
    _title(out, f"{len(found.runs)} runs")
    shown = {"domain": found.domain, "general": found.general, "retention": found.retention}
    verdict = "; ".join(f"{role} {outcome}" for role, outcome in shown.items())
    out.print(Text(f"With every seed: {verdict}.", style="bold"))
    out.print(Text(ENGLISH("headline.not_judged"), style="bold"))
    table = _table("source", "loss in", "change by seed>", "mean>", "sd>", "within rows>", "shown")
    for name, source in found.sources.items():
        change = source.change
        table.add_row(
            Text(visible(name), style="bold"),
            ENGLISH(f"unit_short.{source.unit}"),
            " ".join(map(signed, change.values)),
            signed(change.mean),
            number(change.sd),
            ENGLISH.between(change.interval),
            Text(source.outcome, style=TONES[sentences.TONES[source.outcome]]),
        )
    out.print()
    out.print(table)


def show_answers(answers: Sequence[Answer], *, out: Console | None = None) -> None:
    """Questions with the answers of base and tuned model side by side; below 80 columns one above the other."""
    out = out or get_console()
    pairs: dict[tuple[str, str, str | None], dict[str, list[Answer]]] = {}
    for answer in answers:
        pairs.setdefault((answer.kind, answer.question, answer.row_id), {}).setdefault(answer.model, []).append(answer)
    shown = None
    for (kind, question, _), models in sorted(pairs.items(), key=lambda item: get_args(Kind).index(item[0][0])):
        if kind != shown:
            _title(out, ENGLISH.known("kind", kind))
        else:
            out.print()
        shown = kind
        out.print(Text(visible(question), style="bold"))
        columns = [_model_answers(model, models.get(model, ())) for model in ("base", "tuned")]
        if out.width < 80:
            out.print(Group(*columns))
        else:
            grid = Table.grid(padding=(0, 3), expand=True)
            grid.add_column(ratio=1, overflow="fold")
            grid.add_column(ratio=1, overflow="fold")
            grid.add_row(*columns)
            out.print(grid)


def show_end(model: str, page: Path, seconds: float, *, out: Console | None = None) -> None:
    """Where the tuned model and the report are, and how long it took."""
    out = out or get_console()
    out.print()
    places = f"model   {visible_line(model)}\nreport  {visible_line(str(page))}\n"
    out.print(Text(places).append(f"took {duration(seconds)}", style="dim"))


def _model_answers(model: str, answers: Sequence[Answer]) -> RenderableType:
    """One model's answer; of a question asked again, each different answer with how often it came."""
    different: dict[str, list[Answer]] = {}
    for answer in answers:
        different.setdefault(" ".join(answer.text.split()), []).append(answer)
    text = Text().append(model, style="dim")
    commonest = sorted(different.values(), key=len, reverse=True)
    for same in commonest[:SHOWN_DIFFERENT]:
        head, rest = fold(visible(same[0].text).strip(), SHOWN_CHARACTERS if same[0].stopped else LOOP_CHARACTERS)
        text.append(f"\n{len(same)}× " if len(answers) > 1 else "\n", style="bold").append(head)
        if rest:
            text.append(f" … ({len(rest):,} more)", style="dim")
        if not same[0].stopped:
            text.append(f"\ncut off at {same[0].new_tokens:,} tokens", style="yellow")
    if len(commonest) > SHOWN_DIFFERENT:
        text.append(f"\nand {len(commonest) - SHOWN_DIFFERENT} more different answers", style="dim")
    return text if answers else Text(f"{model}: no answer", style="dim")


def _axes(proof: Proof, texts: Texts) -> Table:
    level = percent(proof.level, 1).replace(".0%", "%")
    interval = texts("table.interval", level=level)
    heads = (texts(f"table.{key}") for key in ("source", "role", "loss_in"))
    numbers = (f"{texts(f'table.{key}')}>" for key in ("base", "tuned", "change"))
    table = _table(*heads, *numbers, f"{interval}>", texts("table.shown"), f"{texts('table.rows')}>")
    for name, loss in proof.sources.items():
        style = TONES[sentences.tone(loss)]
        table.add_row(
            Text(visible(name), style="bold"),
            sentences.role_name(loss, texts),
            texts(f"unit_short.{loss.unit}"),
            number(loss.before),
            number(loss.after),
            Text(signed(loss.change.value), style=style),
            texts.between(loss.change.interval),
            Text(texts.known("outcome", loss.outcome), style=style),
            whole(loss.rows),
        )
    return table


def _parts(proof: Proof, texts: Texts) -> Table:
    parts = ("gain", *PARTS)
    table = _table(
        texts("table.gain_of"),
        *(f"{texts(f'part.{part}')}>" for part in parts),
        f"{texts('table.wins')}>",
        f"{texts('table.rows')}>",
    )
    for name, found in proof.parts.items():
        wins, chance = found.own_question_wins, texts("table.chance", chance=percent(found.chance))
        table.add_row(
            Text(visible(name), style="bold"),
            *(signed(getattr(found, part).value) for part in parts),
            f"{percent(wins.first)} → {percent(wins.second)} ({chance})",
            whole(found.rows),
        )
    return table


def _behaviour(proof: Proof, texts: Texts) -> Table:
    columns = ("answers", "ends", "tokens", "repetition", "hangul", "chrf")
    table = _table(texts("table.behaviour"), *(f"{texts(f'table.{column}')}>" for column in columns))
    for group in proof.behaviour:
        either = group.tuned or group.base
        assert either, f"no answers to {group.kind}"
        table.add_row(
            Text(visible(sentences.group_name(group, texts)), style="bold"),
            str(either.answers),
            *(f"{read(group.base)} → {read(group.tuned)}" for read in BEHAVIOUR_COLUMNS),
        )
    return table


def _value(model: AnswerBehaviour | None, key: str) -> float | None:
    found = getattr(model, key) if model else None
    return found.value if found else None


BEHAVIOUR_COLUMNS: tuple[Callable[[AnswerBehaviour | None], str], ...] = (
    lambda model: percent(_value(model, "stopped")),
    lambda model: whole(_value(model, "mean_tokens")),
    lambda model: percent(_value(model, "repetition")),
    lambda model: percent(_value(model, "hangul")),
    lambda model: number(_value(model, "chrf"), 1),
)


def _table(*heads: str) -> Table:
    """A quiet table; a head that ends with > stands above numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for head in heads:
        justify: Literal["left", "right"] = "right" if head.endswith(">") else "left"
        table.add_column(head.removesuffix(">"), justify=justify, overflow="fold", no_wrap=justify == "right")
    return table


def _title(out: Console, title: str) -> None:
    out.print()
    out.print(Rule(Text(visible_line(title), style="bold"), align="left", style="dim", characters="─"))


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
