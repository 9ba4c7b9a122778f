"""report.html: what was gained, what was lost, and all that led there, in one file that needs no network.

Reads the run folder's files and nothing else; the page itself is `page/report.html.jinja`.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader

from seodang.json_values import to_json
from seodang.proof.gain_parts import PARTS
from seodang.proof.proof import Proof, read_proof
from seodang.proof.stability import AnswerStability, Stability
from seodang.recipe import ReportLanguage
from seodang.run.evidence import Evidence, read_evidence
from seodang.run.folder import PICTURES, PROOF, REPORT, write_text
from seodang.show import alpha_view, answer_views, drawings, formatting, judged, plots, sentences
from seodang.show.answer_views import AnswerViews
from seodang.show.curve_names import SERIES
from seodang.show.language import LANGUAGES, Texts, language_of, texts_in
from seodang.types import Counts
from seodang.user_paths import path_argument

SHOWN_ROWS = 50  # of the dropped ones; all are in dropped.jsonl
SHOWN_QUESTIONS, SHOWN_FINDINGS = 1_000, 1_000  # at most; all are in answers.jsonl and findings.json
RECIPE_CHARACTERS = 1_000_000  # beyond which the file is not read for its sources' names
BEHAVIOUR_COLUMNS = (  # key of the heading, field of `AnswerBehaviour`, how it is written, digits
    ("ends", "stopped", formatting.percent, 0),
    ("tokens", "mean_tokens", formatting.number, 0),
    ("repetition", "repetition", formatting.percent, 0),
    ("echo", "echo", formatting.percent, 0),
    ("hangul", "hangul", formatting.percent, 0),
    ("length", "length_ratio", formatting.number, 2),
    ("chrf", "chrf", formatting.number, 1),
)
SEVERITIES = ("refuse", "warn", "fixed", "note")
FILTERS = (
    *(formatting.number, formatting.nonzero, formatting.whole, formatting.percent),
    *(formatting.level, formatting.signed, formatting.size),
)


def report(run: Path, language: ReportLanguage | None = None) -> Path:
    """Write `report.html` and `pictures/` from the run folder's files and return the page's path.

    Args:
        language: of the page; by default what the run's recipe wants.

    Raises:
        RunError: `run` holds none of a run's files.
        SeodangError: a file was written by another version of seodang, or by none.
    """
    evidence = read_evidence(run)
    texts = texts_of(evidence, language)
    page = _write(run, evidence, texts)
    plots.write_pictures(
        run / PICTURES,
        lengths=evidence.lengths,
        metrics=evidence.metrics,
        order=source_order(evidence),
        proof=proof_of(evidence, where=str(run / PROOF)),
        texts=texts,
    )
    return page


def in_english(run: Path) -> str | None:
    """The command that writes a run's report in English, where the questions alone made it Korean.

    Raises:
        SeodangError: as `report`.
    """
    evidence = read_evidence(run)
    is_chosen = _section(recipe_of(evidence), "report").get("language") in LANGUAGES
    is_english = texts_of(evidence).language == "en"
    return None if is_chosen or is_english else f"seodang report {path_argument(run)} --language en"


def report_so_far(run: Path) -> Path:
    """Write `report.html` alone, of a run that is being trained, and return its path.

    Raises:
        SeodangError: as `report`.
    """
    evidence = read_evidence(run)
    return _write(run, evidence, texts_of(evidence))


def _write(run: Path, evidence: Evidence, texts: Texts) -> Path:
    page = run / REPORT
    write_text(page, render(evidence, run.resolve().name, texts))
    return page


def render(evidence: Evidence, name: str, texts: Texts | None = None) -> str:
    """The page as HTML; `name` stands in for a run that has no manifest yet."""
    texts = texts or texts_of(evidence)
    proof = proof_of(evidence)
    return fill(
        "report.html.jinja",
        texts,
        name=evidence.manifest.name if evidence.manifest else name,
        judgement=judged.judgement_of(evidence),
        alpha=alpha_view,
        curve=alpha_view.curve_of(evidence),
        evidence=evidence,
        manifest=to_json(evidence.manifest) if evidence.manifest else {},
        proof=proof,
        **_measured(evidence, proof, texts),
        **_answers(evidence, proof, texts),
        **_prepared(evidence),
    )


def fill(template: str, texts: Texts, **values: Any) -> str:
    """A page of the folder `page/` as HTML, with its texts, style and script."""
    script = _file("report.js")
    page = (
        _environment()
        .get_template(template)
        .render(
            t=texts,
            say=sentences,
            judged=judged,
            style=_file("report.css"),
            script=script,
            script_hash=b64encode(sha256(script.encode()).digest()).decode(),
            **values,
        )
    )
    return formatting.visible(page)  # whatever it shows, no control character is part of HTML


@cache
def _environment() -> Environment:
    """It holds the compiled templates: to compile them takes longer than to fill them."""
    environment = Environment(
        loader=PackageLoader("seodang.show", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in (*FILTERS, formatting.visible)}
    return environment


def texts_of(evidence: Evidence, language: ReportLanguage | None = None) -> Texts:
    """The texts a run is shown in.

    Args:
        language: by default what its recipe wants.
    """
    recipe = recipe_of(evidence)
    wanted = _section(recipe, "report").get("language")
    asked = _section(recipe, "ask")
    in_recipe = [question for kind in ("domain", "general") for question in _list(asked.get(kind))]
    questions = [answer.question for answer in evidence.answers] or in_recipe
    setting: ReportLanguage = language or (wanted if wanted in LANGUAGES else "auto")
    return texts_in(language_of(setting, map(str, questions)))


def source_order(evidence: Evidence) -> list[str]:
    """The sources as the recipe lists them, else as they turn up in the other files."""
    sources = _list(recipe_of(evidence).get("sources"))
    listed = [str(source["name"]) for source in sources if isinstance(source, dict) and "name" in source]
    proved = (evidence.proof or {}).get("sources")
    found = [*(proved if isinstance(proved, dict) else ()), *(evidence.lengths.train if evidence.lengths else ())]
    return list(dict.fromkeys([*listed, *found, *(count.source for count in evidence.counts)]))


def recipe_of(evidence: Evidence) -> dict[str, Any]:
    """The recipe's keys, as far as the file is a recipe: the page shows it as it is."""
    recipe = evidence.recipe or ""
    if len(recipe) > RECIPE_CHARACTERS:  # no recipe is so long, and YAML takes its time
        return {}
    try:
        found = yaml.safe_load(recipe)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def proof_of(evidence: Evidence, *, where: str = PROOF) -> Proof | None:
    """The run's proof, if it has one.

    Raises:
        SeodangError: it was written by another version of seodang, or is damaged.
    """
    return read_proof(evidence.proof, where=where) if evidence.proof is not None else None


def _measured(evidence: Evidence, proof: Proof | None, texts: Texts) -> dict[str, Any]:
    """What the page shows of the proof and of the training."""
    order = source_order(evidence)
    series = {source: f"var(--series-{number % len(SERIES)})" for number, source in enumerate(order)}
    return {
        "series": series,
        "forest": _forest(proof, series, texts) if proof else {},
        "waterfalls": _waterfalls(proof, series, texts) if proof else {},
        "parts": ("gain", *PARTS),
        "behaviour_columns": BEHAVIOUR_COLUMNS,
        "stability": _stability(proof),
        "drawings": _drawings(evidence, proof, order, texts),
    }


def _answers(evidence: Evidence, proof: Proof | None, texts: Texts) -> dict[str, Any]:
    limit = answer_views.characters(evidence.answers, evidence.metrics)
    views = AnswerViews(texts=texts, limit=limit)
    holdout = views.pairs(evidence.answers, ("holdout",))
    return {
        "is_shortened": limit is not None,
        "pairs": views.pairs(evidence.answers, ("domain", "general")),
        "courses": views.courses(evidence.answers, evidence.metrics),
        "repeated": views.repeated(evidence.answers),
        "examples": answer_views.examples(proof, holdout),
        "sample": answer_views.sample(holdout),
        "sample_seed": answer_views.SAMPLE_SEED,
        "holdout": holdout,
        "shown_questions": SHOWN_QUESTIONS,
    }


def _prepared(evidence: Evidence) -> dict[str, Any]:
    """What the page shows of the data."""
    return {
        "stages": _stages(evidence.counts),
        "findings": sorted(evidence.findings, key=lambda finding: SEVERITIES.index(finding.severity)),
        "shown_findings": SHOWN_FINDINGS,
        "shown_rows": SHOWN_ROWS,
        "samples": [
            (source, split, row.where, _pieces(row.text, row.supervised))
            for source, splits in evidence.samples.items()
            for split, row in splits.items()
        ],
    }


def _forest(proof: Proof, series: Mapping[str, str], texts: Texts) -> Mapping[str, str]:
    """Source → its line of the forest plot."""
    scales = drawings.forest_scales(proof.sources)
    found = {}
    for name, loss in proof.sources.items():
        change = texts.change(loss.change, loss.tolerance)
        label = texts("verdict.forest_label", value=change.value, interval=change.interval)
        found[name] = drawings.forest_cell(loss, scales[loss.unit], color=series[name], label=label)
    return found


def _waterfalls(proof: Proof, series: Mapping[str, str], texts: Texts) -> Mapping[str, Mapping[str, str]]:
    """Source → part → its step of the waterfall."""
    found = {}
    for name, parts in proof.parts.items():
        changes = {part: texts.change(getattr(parts, part)) for part in ("gain", *PARTS)}
        labels = {
            part: texts("parts.label", part=texts(f"part.{part}"), value=change.value, interval=change.interval)
            for part, change in changes.items()
        }
        found[name] = drawings.waterfall_cells(parts, color=series[name], labels=labels)
    return found


def _drawings(evidence: Evidence, proof: Proof | None, order: Sequence[str], texts: Texts) -> dict[str, Any]:
    """Picture → its wide and its narrow drawing as SVG."""
    found: dict[str, tuple[str, str]] = {}
    if evidence.metrics:
        training = proof.compared.training if proof else None
        draw = partial(plots.loss_figure, evidence.metrics, order=order, training=training, texts=texts)
        found["loss"] = _both(draw, texts("curve.label"))
    if curve := alpha_view.curve_of(evidence):
        found["alpha"] = _both(partial(alpha_view.alpha_figure, curve, order=order, texts=texts), texts("alpha.label"))
    if evidence.lengths:
        draw = partial(plots.lengths_figure, evidence.lengths, order=order, texts=texts)
        found["lengths"] = _both(draw, texts("lengths.label"))
    return found


def _both(draw: Callable[..., Any], label: str) -> tuple[str, str]:
    wide, narrow = draw(narrow=False), draw(narrow=True)
    return plots.as_html(wide, label=label, salt=f"wide {label}"), plots.as_html(narrow, label=label, salt=label)


def _stability(proof: Proof | None) -> list[tuple[str, AnswerStability]]:
    """(model, how alike its answers are) where the question was asked again."""
    found = proof.stability if proof else Stability()
    return [(model, alike) for model, alike in (("base", found.base), ("tuned", found.tuned)) if alike]


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


def _section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = recipe.get(name)
    return found if isinstance(found, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _file(name: str) -> str:
    return (files("seodang.show") / "page" / name).read_text(encoding="utf-8")
