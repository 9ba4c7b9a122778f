"""Every number of terminal and report follows from rows.jsonl and answers.jsonl: computed again here, another way."""

import io
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sacrebleu.metrics import CHRF

import run_folder
from command import json_rows
from seodang.proof.held_out import HALVED_CLUSTERS
from seodang.proof.statistics import Interval, ratio, wilson
from seodang.recipe import Tolerance
from seodang.show.report import report
from seodang.show.sentences import ADVISED_ANSWERS
from seodang.show.terminal.proof_view import show_proof
from seodang.show.terminal.verbosity import set_verbose

LEVEL = 1 - 0.05 / 3
NUMBER = re.compile(r"\d+(?:[.,]\d+)*%?")


class Text(HTMLParser):
    """The text of a page, pieces apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run_folder.write_run(tmp_path_factory.mktemp("runs") / "run")
    report(folder, "en")
    return folder


@pytest.fixture(scope="module")
def rows(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Source → the lines of rows.jsonl."""
    found = defaultdict(list)
    for row in json_rows(run / "rows.jsonl"):
        found[row["source"]].append(row)
    return dict(found)


@pytest.fixture(scope="module")
def shown(run: Path) -> dict[str, str]:
    """What a reader sees: the report's text, and the terminal's on a wide terminal."""
    file = io.StringIO()
    set_verbose(True)
    show_proof(run_folder.run_proof(), out=Console(file=file, width=300))
    set_verbose(False)
    page = Text((run / "report.html").read_text(encoding="utf-8")).text
    return {"report": " ".join(page.split()), "terminal": " ".join(file.getvalue().split())}


def written(value: float, digits: int = 3) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    return f"{value:+,.{digits}f}".replace("-", "−")


def ends(interval: Interval | None, digits: int = 3) -> str:
    assert interval
    return f"{signed(interval.low, digits)} to {signed(interval.high, digits)}"


def sums(rows: list[dict[str, Any]], model: str) -> np.ndarray:
    return np.array([row[model]["content"] + row[model]["ending"] for row in rows])


def test_losses_and_changes(rows: dict[str, list[dict[str, Any]]], shown: dict[str, str]) -> None:
    """Token-weighted means and their differences; bits per byte for plain text; intervals at 1 − 0.05/3."""
    for name, own in rows.items():
        is_text = name == "wiki"
        per = np.array([row["num_bytes"] if is_text else row["content_tokens"] + row["end_tokens"] for row in own])
        base, tuned = (sums(own, model) / (math.log(2) if is_text else 1) for model in ("base", "tuned"))
        interval = ratio(tuned - base, per, [row["cluster"] for row in own], level=LEVEL).interval
        for text in shown.values():
            for number in (
                written(base.sum() / per.sum()), written(tuned.sum() / per.sum()),
                signed((tuned.sum() - base.sum()) / per.sum()), ends(interval),
            ):  # fmt: skip
                assert number in text, (name, number)


def test_content_and_turn_end(rows: dict[str, list[dict[str, Any]]], shown: dict[str, str]) -> None:
    """Both changes by themselves, in the report."""
    for own in rows.values():
        for key, per in (("content", "content_tokens"), ("ending", "end_tokens")):
            if total := sum(row[per] for row in own):
                change = sum(row["tuned"][key] - row["base"][key] for row in own) / total
                assert signed(change) in shown["report"]


def test_parts(rows: dict[str, list[dict[str, Any]]], shown: dict[str, str]) -> None:
    """Ending, format, style and substance from the contrasts alone, and the percentages of the sentence."""
    contrasts = [row["contrast"] for row in rows["의료_질문"]]
    tokens = sum(c["content_tokens"] + 1 for c in contrasts)
    mean = {(n, m): np.mean(c[m]["foreign"]) for n, c in enumerate(contrasts) for m in ("base", "tuned")}
    parts = {
        "ending": sum(c["base_ending"] - c["tuned_ending"] for c in contrasts),
        "format": sum(c["base_template"] - c["base"]["own"] for c in contrasts),
        "style": sum(mean[n, "base"] - mean[n, "tuned"] for n in range(len(contrasts))),
        "substance": sum(
            mean[n, "tuned"] - c["tuned"]["own"] - mean[n, "base"] + c["base"]["own"] for n, c in enumerate(contrasts)
        ),
    }
    gain = sum(parts.values())
    for text in shown.values():
        for part in (*parts.values(), gain):
            assert signed(part / tokens) in text
        words = ("the turn end", "the chat format", "style", "what depends on the question")
        for word, part in zip(words, parts.values(), strict=True):
            assert f"{round(100 * part / gain)}% {word}" in text
        assert f"{signed(parts['substance'] / len(contrasts), 2)} nats per answer" in text


def test_behaviour(run: Path, shown: dict[str, str]) -> None:
    """Stops with Wilson's interval, tokens, repetition and chrF of every group."""
    groups = defaultdict(list)
    for answer in json_rows(run / "answers.jsonl"):
        groups[answer["kind"], answer["source"], answer["model"]].append(answer)
    metric = CHRF()
    for (kind, source, model), answers in groups.items():
        stopped = sum(answer["stopped"] for answer in answers)
        figures = [
            f"{100 * stopped / len(answers):.0f}%",
            f"{np.mean([answer['new_tokens'] for answer in answers]):.0f}",
            f"{100 * np.mean([_repetition(answer['text']) for answer in answers]):.0f}%",
        ]
        if source:
            scores = [metric.sentence_score(answer["text"], [answer["reference"]]).score for answer in answers]
            figures.append(f"{np.mean(scores):.1f}")
        for text in shown.values():
            for figure in figures:
                assert figure in text, (kind, model, figure)
        if kind == "holdout":
            interval = wilson(stopped, len(answers))
            sentence = f"{model} {stopped} of {len(answers)} ({100 * interval.low:.0f}% to {100 * interval.high:.0f}%)"
            assert sentence in shown["terminal"]


def _repetition(text: str) -> float:
    grams = list(zip(*[re.findall(r"\w+|[^\w\s]", text)[k:] for k in range(4)], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def test_best_and_worst(rows: dict[str, list[dict[str, Any]]], run: Path, shown: dict[str, str]) -> None:
    """The changes that stand above the shown answers are those of their rows, in order."""
    asked = {answer["row_id"] for answer in json_rows(run / "answers.jsonl")}
    own = [row for row in rows["의료_질문"] if row["row_id"] in asked]
    changes = [
        (sums([row], "tuned") - sums([row], "base"))[0] / (row["content_tokens"] + row["end_tokens"]) for row in own
    ]
    assert len(changes) == 2
    assert all(low <= high for low, high in pairwise(sorted(changes)))
    for change in changes:
        assert f"{signed(change)} nats per token" in shown["report"]


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}%"


def bounds(interval: Interval | None, digits: int = 3) -> set[str]:
    assert interval
    return {written(abs(end), digits) for end in (interval.low, interval.high)}


def of_losses(rows: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Numbers of the headline and of the table of losses, without their signs."""
    for name, own in rows.items():
        is_text = name == "wiki"
        per = np.array([row["num_bytes"] if is_text else row["content_tokens"] + row["end_tokens"] for row in own])
        base, tuned = (sums(own, model) / (math.log(2) if is_text else 1) for model in ("base", "tuned"))
        for total in (base, tuned, tuned - base):
            yield written(abs(total.sum() / per.sum()))
        yield from (percent(math.exp(-total.sum() / per.sum()), 1) for total in (base, tuned))
        yield from bounds(ratio(tuned - base, per, [row["cluster"] for row in own], level=LEVEL).interval)
        yield str(len(own))


def of_parts(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Numbers of what the gain is made of."""
    contrasts = [row["contrast"] for row in rows]
    own = {model: np.array([c[model]["own"] for c in contrasts]) for model in ("base", "tuned")}
    foreign = {model: np.array([c[model]["foreign"] for c in contrasts]) for model in ("base", "tuned")}
    ending = np.array([c["base_ending"] - c["tuned_ending"] for c in contrasts])
    format_ = np.array([c["base_template"] for c in contrasts]) - own["base"]
    style = foreign["base"].mean(1) - foreign["tuned"].mean(1)
    substance = foreign["tuned"].mean(1) - own["tuned"] - foreign["base"].mean(1) + own["base"]
    gain = ending + format_ + style + substance
    tokens = sum(c["content_tokens"] + 1 for c in contrasts)
    for part in (ending, format_, style, substance, gain):
        yield written(abs(part.sum() / tokens))
        yield percent(abs(part.sum() / gain.sum()))
    yield written(abs(substance.mean()), 2)
    yield from bounds(ratio(substance, np.ones(len(rows)), [row["cluster"] for row in rows], level=LEVEL).interval, 2)
    for model in ("base", "tuned"):
        yield percent(float(np.mean(own[model] < foreign[model].min(1))))
    yield percent(1 / (1 + foreign["base"].shape[1]))
    yield str(len(rows))


def of_answers(answers: list[dict[str, Any]]) -> Iterator[str]:
    """Numbers of the table of answers, and of the sentences on how they end."""
    groups = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        groups[answer["kind"], answer["source"]][answer["model"]].append(answer)
    metric = CHRF()
    for models in groups.values():
        for own in models.values():
            texts = [answer["text"] for answer in own]
            stopped = sum(answer["stopped"] for answer in own)
            interval = wilson(stopped, len(own))
            yield from (str(stopped), str(len(own)), percent(stopped / len(own)))
            yield from (percent(interval.low), percent(interval.high))
            yield f"{np.mean([answer['new_tokens'] for answer in own]):,.0f}"
            yield percent(float(np.mean([_repetition(text) for text in texts])))
            letters = [[char for char in text if char.isalpha()] for text in texts]
            hangul = [np.mean(["가" <= char <= "힣" for char in each]) for each in letters if each]
            yield percent(float(np.mean(hangul)))
            if references := [answer["reference"] for answer in own if answer["reference"]]:
                pairs = zip(texts, references, strict=True)
                yield f"{np.mean([metric.sentence_score(text, [one]).score for text, one in pairs]):.1f}"
        changed = [a["stopped"] - b["stopped"] for a, b in zip(models["tuned"], models["base"], strict=True)]
        if differing := [change for change in changed if change]:
            fewer = min(differing.count(1), differing.count(-1))
            tail = sum(math.comb(len(differing), k) for k in range(fewer + 1)) / 2 ** len(differing)
            yield written(min(1.0, 2 * tail))


def test_the_terminal_shows_no_other_number(
    rows: dict[str, list[dict[str, Any]]], run: Path, shown: dict[str, str]
) -> None:
    """Every number of the verdict is one that is recomputed here, a step of training, or a limit that code names."""
    known = {*of_losses(rows), *of_parts(rows["의료_질문"]), *of_answers(json_rows(run / "answers.jsonl"))}
    known |= {str(run_folder.BEST), percent(LEVEL, 1), f"{Tolerance().retention:g}", f"{Tolerance().general:g}"}
    known |= {str(HALVED_CLUSTERS), str(ADVISED_ANSWERS)}
    found = NUMBER.findall(shown["terminal"])
    assert len(found) > 100
    assert [number for number in found if number not in known] == []
