"""report.html: what was gained, what was lost, and all that led there, in one file that needs no network.

Reads the run folder's files and nothing else; the page itself is `report.html.jinja`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader

from seodang.json_values import to_json
from seodang.proof.behaviour import LOOPING, hangul_share, repetition
from seodang.proof.gain_parts import PARTS
from seodang.proof.proof import Example, Proof, Training, read_proof
from seodang.proof.stability import AnswerStability, Stability
from seodang.run.events import AnswersEvent
from seodang.run.evidence import Evidence, read_evidence
from seodang.run.folder import PICTURES, PROOF, REPORT
from seodang.show import formatting, plots, sentences
from seodang.show.sentences import KINDS
from seodang.types import Answer, Counts

SHOWN_CHARACTERS = 560  # of an answer; the rest unfolds
LOOP_CHARACTERS = 180  # of one that repeats itself
COURSE_CHARACTERS = 240  # of one that was given during training
SHOWN_ROWS = 50  # of the dropped ones; all are in dropped.jsonl
RECIPE_CHARACTERS = 1_000_000  # beyond which the file is not read for its sources' names
BEHAVIOUR_COLUMNS = (  # heading, field of `AnswerBehaviour`, how it is written, digits
    ("End by itself", "stopped", formatting.percent, 0),
    ("Tokens, mean", "mean_tokens", formatting.number, 0),
    ("Repetition", "repetition", formatting.percent, 0),
    ("Echo the question", "echo", formatting.percent, 0),
    ("Hangul", "hangul", formatting.percent, 0),
    ("Length to reference", "length_ratio", formatting.number, 2),
    ("chrF", "chrf", formatting.number, 1),
)
SEVERITIES = ("refuse", "warn", "fixed", "note")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A text as the page shows it: `rest` unfolds, `notes` stand below it."""

    head: str
    rest: str
    lang: str
    notes: tuple[str, ...]
    is_cut: bool = False  # did not end by itself
    times: int = 1


def report(run: Path) -> Path:
    """Write `report.html` and `pictures/` from the run folder's files and return the page's path.

    Raises:
        RunError: `run` holds none of a run's files.
        SeodangError: a file was written by another version of seodang, or by none.
    """
    evidence = read_evidence(run)
    page = run / REPORT
    part = run / f"{REPORT}.part"
    part.write_text(render(evidence, run.name), encoding="utf-8", errors="replace")
    part.replace(page)
    proof = proof_of(evidence, where=str(run / PROOF))
    training = (proof and proof.compared.training) or Training()
    plots.write_pictures(
        run / PICTURES,
        lengths=evidence.lengths,
        metrics=evidence.metrics,
        order=source_order(evidence),
        best_step=training.best_step,
        turned_at=training.turned_at,
        proof=proof,
    )
    return page


def render(evidence: Evidence, name: str) -> str:
    """The page as HTML; `name` stands in for a run that has no manifest yet."""
    environment = Environment(
        loader=PackageLoader("seodang.show", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        formatting.number,
        formatting.whole,
        formatting.percent,
        formatting.signed,
        formatting.between,
        formatting.duration,
        formatting.size,
    )
    environment.filters |= {function.__name__: function for function in (*filters, formatting.visible)}
    order, proof = source_order(evidence), proof_of(evidence)
    page = environment.get_template("report.html.jinja").render(
        name=evidence.manifest.name if evidence.manifest else name,
        evidence=evidence,
        manifest=to_json(evidence.manifest) if evidence.manifest else {},
        proof=proof,
        say=sentences,
        parts=PARTS,
        behaviour_columns=BEHAVIOUR_COLUMNS,
        stability=_stability(proof),
        examples=_examples(proof, evidence.answers),
        kind_names=KINDS,
        series={source: f"var(--series-{n % len(plots.SERIES)})" for n, source in enumerate(order)},
        drawings=_drawings(evidence, proof, order),
        pairs=_pairs(evidence.answers, ("domain", "general")),
        courses=_courses(evidence),
        repeated=_repeated(evidence.answers),
        holdout=_pairs(evidence.answers, ("holdout",)),
        stages=_stages(evidence.counts),
        findings=sorted(evidence.findings, key=lambda finding: SEVERITIES.index(finding.severity)),
        shown_rows=SHOWN_ROWS,
        samples=[
            (source, split, row.where, _pieces(row.text, row.supervised))
            for source, splits in evidence.samples.items()
            for split, row in splits.items()
        ],
    )
    return formatting.visible(page)  # whatever it shows, no control character is part of HTML


def source_order(evidence: Evidence) -> list[str]:
    """The sources as the recipe lists them, else as they turn up in the other files."""
    listed = _listed(evidence.recipe or "")
    proved = (evidence.proof or {}).get("sources")
    found = [*(proved if isinstance(proved, dict) else ()), *(evidence.lengths.train if evidence.lengths else ())]
    return list(dict.fromkeys([*listed, *found, *(count.source for count in evidence.counts)]))


def _listed(recipe: str) -> list[str]:
    """The names of a recipe's sources, as far as the file is a recipe."""
    if len(recipe) > RECIPE_CHARACTERS:  # no recipe is so long, and YAML takes its time
        return []
    try:
        sources = (yaml.safe_load(recipe) or {}).get("sources", [])
        return [str(source["name"]) for source in sources]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return []  # the page shows the file as it is


def shown(text: str, notes: Iterable[str] = (), *, limit: int = SHOWN_CHARACTERS) -> Shown:
    """A text of a model or of the data, folded after about `limit` characters."""
    head, rest = formatting.fold(formatting.visible(text).strip("\n"), limit)
    lang = "ko" if (hangul_share(text) or 0) > 0.1 else "und"
    return Shown(head=head, rest=rest, lang=lang, notes=tuple(notes))


def proof_of(evidence: Evidence, *, where: str = PROOF) -> Proof | None:
    """The run's proof, if it has one.

    Raises:
        SeodangError: it was written by another version of seodang, or is damaged.
    """
    return read_proof(evidence.proof, where=where) if evidence.proof is not None else None


def _drawings(evidence: Evidence, proof: Proof | None, order: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Picture → its wide and its narrow drawing as SVG."""
    drawings: dict[str, tuple[str, str]] = {}
    training = (proof and proof.compared.training) or Training()
    if evidence.metrics:
        label = "Line chart of training and evaluation loss over the optimizer steps"
        draw = partial(
            plots.loss_figure,
            evidence.metrics,
            order=order,
            best_step=training.best_step,
            turned_at=training.turned_at,
        )
        drawings["loss"] = _both(draw, label)
    if evidence.lengths:
        label = "Histograms of row lengths in tokens, one per source"
        drawings["lengths"] = _both(partial(plots.lengths_figure, evidence.lengths, order=order), label)
    if proof and proof.sources:
        label = "Each source's change of loss with its interval"
        drawings["changes"] = _both(partial(plots.changes_figure, proof, order=order), label)
    if proof and proof.parts:
        label = "Waterfall of the parts of the gain, one per source"
        drawings["parts"] = _both(partial(plots.parts_figure, proof, order=order), label)
    return drawings


def _both(draw: Callable[..., Any], label: str) -> tuple[str, str]:
    wide, narrow = draw(narrow=False), draw(narrow=True)
    return plots.as_html(wide, label=label, salt=f"wide {label}"), plots.as_html(narrow, label=label, salt=label)


def _answer(answer: Answer, times: int = 1) -> Shown:
    end = "ended by itself" if answer.stopped else "cut off"
    notes = [f"{formatting.plural(answer.new_tokens, 'token')}, {end}"]
    if is_loop := (share := repetition(answer.text)) >= LOOPING:
        notes.append(f"repeats itself {formatting.percent(share)}")
    limit = LOOP_CHARACTERS if is_loop else SHOWN_CHARACTERS
    return replace(
        shown(answer.text, notes, limit=limit // 2 if answer.kind == "repeat" else limit),
        is_cut=not answer.stopped,
        times=times,
    )


def _pairs(answers: Sequence[Answer], asked: Sequence[str]) -> list[dict[str, Any]]:
    """One entry per question: kind, question, where it is from, and the answers of base and tuned side by side."""
    pairs: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for answer in answers:
        if answer.kind in asked:
            start = {"kind": answer.kind, "question": answer.question, "base": None, "tuned": None, "reference": None}
            where = {"source": answer.source, "row_id": answer.row_id}
            pair = pairs.setdefault((answer.kind, answer.question, answer.row_id), start | where)
            pair[answer.model] = _answer(answer)
            pair["reference"] = shown(answer.reference) if answer.reference else None
    return sorted(pairs.values(), key=lambda pair: asked.index(pair["kind"]))


def _courses(evidence: Evidence) -> list[tuple[str, list[tuple[str, Shown]]]]:
    """(question, its answers and when they were given) where one was asked during training; the base's is the first."""
    base = {(answer.kind, answer.question): answer for answer in evidence.answers if answer.model == "base"}
    asked: dict[tuple[Any, str], dict[int, tuple[str, bool]]] = {}
    for event in evidence.metrics:
        for answer in event.answers if isinstance(event, AnswersEvent) else ():
            key = answer.kind, answer.question
            start = {0: (base[key].text, base[key].stopped)} if key in base else {}
            asked.setdefault(key, start)[event.step] = answer.text, answer.stopped
    return [
        (question, [_given(list(steps), *answer) for answer, steps in groupby(sorted(given), key=given.__getitem__)])
        for (_, question), given in asked.items()
    ]


def _given(steps: Sequence[int], text: str, stopped: bool) -> tuple[str, Shown]:
    """An answer and when it was given: the same one several times in a row stands once."""
    when = f"step {steps[0]:,}" if steps[0] else "base"
    if len(steps) > 1:
        when += f" to {'' if steps[0] else 'step '}{steps[-1]:,}"
    limit = LOOP_CHARACTERS if repetition(text) >= LOOPING else COURSE_CHARACTERS
    return when, replace(shown(text, () if stopped else ("cut off",), limit=limit), is_cut=not stopped)


def _repeated(answers: Sequence[Answer]) -> dict[str, Any] | None:
    """The repeated question and, per model, its different answers with how often each came, the commonest first."""
    asked = [answer for answer in answers if answer.kind == "repeat"]
    if not asked:
        return None
    repeated: dict[str, Any] = {"question": asked[0].question, "base": [], "tuned": []}
    for model in ("base", "tuned"):
        same: dict[str, list[Answer]] = {}
        for answer in asked:
            if answer.model == model:
                same.setdefault(" ".join(answer.text.split()), []).append(answer)
        repeated[model] = [_answer(group[0], len(group)) for group in sorted(same.values(), key=len, reverse=True)]
    return repeated


def _stability(proof: Proof | None) -> list[tuple[str, AnswerStability]]:
    """(model, how alike its answers are) where the question was asked again."""
    found = proof.stability if proof else Stability()
    return [(model, alike) for model, alike in (("base", found.base), ("tuned", found.tuned)) if alike]


def _examples(proof: Proof | None, answers: Sequence[Answer]) -> list[tuple[str, list[tuple[Example, dict[str, Any]]]]]:
    """Held-out answers whose loss fell most, and rose most: (heading, the rows with their question and answers)."""
    pairs = {pair["row_id"]: pair for pair in _pairs(answers, ("holdout",))}
    lists = {"The loss fell most": proof.best, "The loss rose most, or fell least": proof.worst} if proof else {}
    return [
        (heading, [(one, pairs[one.row_id]) for one in examples if one.row_id in pairs])
        for heading, examples in lists.items()
        if examples
    ]


def _stages(counts: Sequence[Counts]) -> list[tuple[str, list[Counts], list[str]]]:
    """(source, its stages in order, its remarks)."""
    order = list(dict.fromkeys(count.source for count in counts))
    grouped = groupby(sorted(counts, key=lambda count: order.index(count.source)), key=lambda count: count.source)
    stages = [(source, list(rows)) for source, rows in grouped]
    return [(source, rows, [remark for row in rows for remark in row.remarks]) for source, rows in stages]


def _pieces(text: str, spans: Sequence[Sequence[int]]) -> list[tuple[str, bool]]:
    """The rendered text in pieces, each supervised or not."""
    pieces, done = [], 0
    for start, end in spans:
        pieces += [(text[done:start], False), (text[start:end], True)]
        done = end
    return [(formatting.visible(piece), marked) for piece, marked in [*pieces, (text[done:], False)] if piece]
