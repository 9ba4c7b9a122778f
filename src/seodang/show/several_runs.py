"""Several runs in one page: what they differ in, what each gained and lost, their curves, their answers side by side.

Reads the run folders' files and nothing else; the page itself is `page/several.html.jinja`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seodang.errors import RunError, os_reason
from seodang.judge.judgement import Judgement
from seodang.proof.behaviour import GroupBehaviour
from seodang.proof.gain_parts import PARTS
from seodang.proof.losses import SourceLoss, effective_shares, proving, source_loss, tuned_against_tuned
from seodang.proof.measured_rows import MeasuredRow, read_rows
from seodang.proof.proof import Proof
from seodang.proof.statistics import Estimate, headline_level
from seodang.recipe import ReportLanguage, Tolerance
from seodang.run.events import EvalEvent, RecordedEvent, SourceEvaluation
from seodang.run.evidence import Evidence, read_evidence
from seodang.run.folder import PROOF, Run, write_text
from seodang.show import answer_views, drawings, judged, plots, sentences
from seodang.show.answer_views import AnswerViews, Shown, ShownPair
from seodang.show.curve_names import SERIES
from seodang.show.differences import differing_settings, obstacles
from seodang.show.language import Texts
from seodang.show.report import BEHAVIOUR_COLUMNS, SHOWN_QUESTIONS, fill, proof_of, recipe_of, source_order, texts_of

MARK = '<meta name="generator" content="seodang, several runs">'  # by which an earlier such page is known
NAMED_RUNS = 3  # in the name of the page
NAME_BYTES = 200  # of that name in UTF-8: file systems take 255, and it is first written under a longer one
TRAINING = ""  # in place of a source's name: the training loss


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One of the runs."""

    folder: Path
    evidence: Evidence
    proof: Proof | None
    judgement: Judgement | None
    rows: Sequence[MeasuredRow]


@dataclass(frozen=True, kw_only=True)
class AxisRow:
    """What became of one source in one run."""

    run: str
    loss: SourceLoss
    forest: str  # its interval as SVG
    against_first: Estimate | None  # this tuned model − the first run's; None: not measured on the same rows


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with the answer of each run."""

    kind: str
    question: str
    row_id: str | None
    reference: Shown | None
    base: Shown | None  # None: the runs have different bases
    answers: Mapping[str, Shown | None]  # run → its answer


def report_runs(folders: Sequence[Path], *, out: Path | None = None, language: ReportLanguage | None = None) -> Path:
    """Write one page that compares several runs, from the run folders' files, and return its path.

    Args:
        folders: of the runs; figures are compared with those of the first one.
        out: the page; by default `compared-NAME-NAME.html` in the current folder. An earlier such page is replaced.
        language: of the page; by default what the first run's recipe wants.

    Raises:
        RunError: a folder holds none of a run's files, or is given twice; `out` is another file, or cannot be written.
        SeodangError: a file was written by another version of seodang, or by none.
    """
    names = run_names(folders)
    runs = {name: _read(folder) for name, folder in zip(names, folders, strict=True)}
    page = out or Path(_page_name(folders))
    texts = texts_of(next(iter(runs.values())).evidence, language)
    try:
        _refuse_other_file(page)
        write_text(page, render_runs(runs, texts))
    except OSError as error:
        raise RunError(f"cannot be written: {os_reason(error)}", where=str(page), hint="give a file by --out") from None
    return page


def run_names(folders: Sequence[Path]) -> list[str]:
    """What runs are called: by their folders, with what is above where two have one name.

    Raises:
        RunError: a folder is given twice.
    """
    whole = [folder.resolve() for folder in folders]
    for place, folder in enumerate(whole):
        if folder in whole[:place]:
            raise RunError("is given twice", where=str(folders[place]), hint="give each run once")
    for depth in range(1, max(len(folder.parts) for folder in whole)):
        names = ["/".join(folder.parts[-depth:]) for folder in whole]
        if len(set(names)) == len(names):
            return names
    return list(map(str, whole))


def render_runs(runs: Mapping[str, ComparedRun], texts: Texts) -> str:
    """The page as HTML."""
    proofs = {name: run.proof for name, run in runs.items()}
    answers = [answer for run in runs.values() for answer in run.evidence.answers]
    limit = answer_views.characters(answers, ())
    questions, alone = _questions(runs, AnswerViews(texts=texts, limit=limit))
    return fill(
        "several.html.jinja",
        texts,
        name=", ".join(runs),
        mark=MARK,
        runs=runs,
        series={name: f"var(--series-{place % len(SERIES)})" for place, name in enumerate(runs)},
        obstacles=obstacles(proofs, {name: run.rows for name, run in runs.items()}, texts),
        axes=_axes(runs, texts),
        parts=("gain", *PARTS),
        gains=_gains(proofs),
        settings=differing_settings(
            {name: recipe_of(run.evidence) for name, run in runs.items()},
            {name: run.evidence.manifest for name, run in runs.items()},
        ),
        drawings=_curves(runs, texts),
        behaviour=_behaviour(proofs, texts),
        behaviour_columns=BEHAVIOUR_COLUMNS,
        questions=questions[:SHOWN_QUESTIONS],
        left_out=max(0, len(questions) - SHOWN_QUESTIONS),
        alone=alone,
        is_shortened=limit is not None,
    )


def _read(folder: Path) -> ComparedRun:
    evidence = read_evidence(folder)
    return ComparedRun(
        folder=folder,
        evidence=evidence,
        proof=proof_of(evidence, where=str(folder / PROOF)),
        judgement=judged.judgement_of(evidence),
        rows=read_rows(Run(folder=folder)),
    )


def _page_name(folders: Sequence[Path]) -> str:
    names = [re.sub(r"[^\w.+=-]+", "_", folder.resolve().name) for folder in folders]
    more = [f"{len(names) - NAMED_RUNS}-more"] if len(names) > NAMED_RUNS else []
    name = "-".join(["compared", *names[:NAMED_RUNS], *more])
    return f"{name.encode()[:NAME_BYTES].decode(errors='ignore')}.html"


def _refuse_other_file(page: Path) -> None:
    """Raises:
    RunError: something else is there, such as a run's own report.
    """
    if page.is_dir() or (page.exists() and MARK not in page.read_text(encoding="utf-8", errors="replace")[:2_000]):
        raise RunError(
            "is there already, and not a page that compares runs", where=str(page), hint="give another file by --out"
        )


def _axes(runs: Mapping[str, ComparedRun], texts: Texts) -> dict[str, list[AxisRow]]:
    """Source → what became of it in each run that is proven, on one scale where the unit is the same."""
    proven = {name: run.proof for name, run in runs.items() if run.proof}
    sources = dict.fromkeys(source for proof in proven.values() for source in proof.sources)
    found = {}
    for source in sources:
        losses = {name: proof.sources[source] for name, proof in proven.items() if source in proof.sources}
        scales = drawings.forest_scales(losses)
        first = next(iter(losses))
        level = headline_level(len(sources) * max(1, len(losses) - 1))
        found[source] = [
            AxisRow(
                run=name,
                loss=loss,
                forest=drawings.forest_cell(
                    loss,
                    scales[loss.unit],
                    color=f"var(--series-{list(runs).index(name) % len(SERIES)})",
                    label=texts("verdict.forest_label", value=change.value, interval=change.interval),
                ),
                against_first=None if name == first else _against(runs[first], runs[name], source, loss, level),
            )
            for name, loss in losses.items()
            for change in [texts.change(loss.change, loss.tolerance)]
        ]
    return found


def _against(first: ComparedRun, other: ComparedRun, source: str, loss: SourceLoss, level: float) -> Estimate | None:
    """How much higher the loss of one tuned model is than the first run's, row by row."""
    ours, theirs = (proving([row for row in run.rows if row.source == source]) for run in (other, first))
    rows = tuned_against_tuned(theirs, ours)
    assert first.proof
    if not rows or first.proof.sources[source].unit != loss.unit:
        return None
    is_like_tokens = loss.unit == "nats per token" or loss.role == "retention"
    lengths = other.evidence.lengths
    return source_loss(
        rows,
        loss.role,
        Tolerance(),
        is_trained=loss.is_trained,
        same_tokenizer=is_like_tokens,
        level=level,
        effective_share=effective_shares(lengths).get(source) if lengths else None,
    ).change


def _gains(proofs: Mapping[str, Proof | None]) -> dict[str, dict[str, Any]]:
    """Source → run → the parts of its gain, where they were measured."""
    found: dict[str, dict[str, Any]] = {}
    for name, proof in proofs.items():
        for source, parts in proof.parts.items() if proof else ():
            found.setdefault(source, {})[name] = parts
    return found


def _behaviour(proofs: Mapping[str, Proof | None], texts: Texts) -> dict[str, dict[str, GroupBehaviour]]:
    """Group of questions → run → how its answers behave."""
    found: dict[str, dict[str, GroupBehaviour]] = {}
    for name, proof in proofs.items():
        for group in proof.behaviour if proof else ():
            if group.tuned:
                found.setdefault(sentences.group_name(group, texts), {})[name] = group
    return found


def _questions(runs: Mapping[str, ComparedRun], views: AnswerViews) -> tuple[list[Asked], int]:
    """Questions that at least two runs were asked, and how many only one was."""
    pairs: dict[tuple[str, str, str | None], dict[str, ShownPair]] = {}
    for name, run in runs.items():
        for pair in views.pairs(run.evidence.answers, ("domain", "general", "holdout")):
            if pair.tuned:
                pairs.setdefault((pair.kind, pair.question, pair.row_id), {})[name] = pair
    bases = {run.proof.compared.base for run in runs.values() if run.proof}
    asked = [
        Asked(
            kind=kind,
            question=question,
            row_id=row_id,
            reference=next((pair.reference for pair in given.values() if pair.reference), None),
            base=next((pair.base for pair in given.values() if pair.base), None) if len(bases) == 1 else None,
            answers={name: given[name].tuned if name in given else None for name in runs},
        )
        for (kind, question, row_id), given in pairs.items()
        if len(given) > 1
    ]
    order = ("domain", "general", "holdout")
    return sorted(asked, key=lambda one: order.index(one.kind)), sum(len(given) == 1 for given in pairs.values())


def _curves(runs: Mapping[str, ComparedRun], texts: Texts) -> dict[str, str]:
    """Source (or `TRAINING`) → the losses of all runs over each other, as SVG."""
    sources = dict.fromkeys(source for run in runs.values() for source in source_order(run.evidence))
    found = {}
    for source in (*sources, TRAINING):
        events = [event for name, run in runs.items() for event in _as_sources(name, run.evidence.metrics, source)]
        if events:
            figure = plots.loss_figure(events, order=list(runs), narrow=True, texts=texts)
            label = texts("several.curve_label", source=source or texts("several.training_loss"))
            found[source] = plots.as_html(figure, label=label, salt=label)
    return found


def _as_sources(run: str, metrics: Sequence[RecordedEvent], source: str) -> Iterable[EvalEvent]:
    """The losses of one source (or of training) as evaluations of a source that is called as the run is."""
    if source == TRAINING:
        points: Iterable[tuple[int, float]] = plots.smooth(plots.training_points(metrics))
    else:
        evaluations = [event for event in metrics if isinstance(event, EvalEvent) and source in event.sources]
        points = [(event.step, event.sources[source].loss) for event in evaluations]
    for step, loss in points:
        one = SourceEvaluation(loss=loss, probability=0.0, tokens=0, rows=0, bits_per_byte=None)
        yield EvalEvent(step=step, epoch=0.0, loss=None, probability=None, sources={run: one})
