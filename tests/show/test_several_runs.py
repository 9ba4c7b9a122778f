"""several runs: one page that compares them, from their folders' files alone."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from test_report import Page

import run_folder
from command import seodang
from seodang.errors import RunError
from seodang.json_values import to_json
from seodang.proof.measured_rows import MeasuredRow
from seodang.proof.proof import Compared, prove_rows
from seodang.show.language import texts_in
from seodang.show.several_runs import _page_name, report_runs, run_names


def other_run(folder: Path, *, base: str = "package:gemma-3-270m", rows: tuple[MeasuredRow, ...] = ()) -> Path:
    """A second run of the same data: a higher rate, losses that are 0.2 nats per token lower, other answers."""
    run = run_folder.write_run(folder)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["train"]["learning_rate"] = 1.0e-4
    recipe["sources"][0]["take"] = 500
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    rows = rows or tuple(
        replace(row, tuned=replace(row.tuned, content=row.tuned.content - 0.2 * row.content_tokens))
        for row in run_folder.run_rows()
    )
    answers = [
        replace(answer, text=f"둘째: {answer.text}") if answer.model == "tuned" else answer
        for answer in run_folder.run_answers()
    ]
    proof = prove_rows(rows, answers, Compared(name="other", base=base, tuned="model"), roles=run_folder.ROLES)
    (run / "proof.json").write_text(json.dumps(to_json(proof), ensure_ascii=False), encoding="utf-8")
    for name, lines in (("rows", map(to_json, rows)), ("answers", map(asdict, answers))):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (run / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that differ in two settings, and one that has only begun."""
    folder = tmp_path_factory.mktemp("runs")
    begun = run_folder.write_run(folder / "begun")
    for name in ("proof.json", "answers.jsonl", "rows.jsonl"):
        (begun / name).unlink()
    return [run_folder.write_run(folder / "first"), other_run(folder / "second"), begun]


@pytest.fixture(scope="module", autouse=True)
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all of them; without their curves, which take seconds to draw, the other tests are quick."""
    page = report_runs(runs, out=tmp_path_factory.mktemp("pages") / "all.html", language="en")
    for run in runs:
        (run / "metrics.jsonl").unlink()
    return page


class Spaced(Page):
    """A page's text with a space between its elements."""

    def handle_data(self, data: str) -> None:
        super().handle_data(f" {data}")


def text_of(page: Path) -> str:
    return " ".join(Spaced(page.read_text(encoding="utf-8")).text.split())


def test_runs_are_compared_in_one_page(page: Path) -> None:
    """Settings that differ, each source's change, the second against the first, and the answers of each."""
    html = page.read_text(encoding="utf-8")
    found = Page(html)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert {address[1:] for address in found.addresses if address != "data:,"} <= set(found.ids)
    text = text_of(page)
    for expected in (
        "3 runs compared", "train.learning_rate 2e-05 0.0001 2e-05", "sources.의료_질문.take — 500 —",
        "Loss on 의료_질문 answers fell by 0.906", "begun has no proof", "Against first", "안토시아닌이라는",
        "둘째: 사과", "Substance per answer", "Training took", "Not proved yet", "Training loss",
    ):  # fmt: skip
        assert expected in text, expected
    assert "sources.일반대화" not in text  # the same in all
    assert text.count("안토시아닌이라는") == 2
    assert html.count("<figure") == 4  # three sources, and the training loss


def test_the_second_run_is_compared_row_by_row(page: Path) -> None:
    """The same shift of every row has an interval without width, however wide those of the changes are."""
    text = text_of(page)
    axis = text[text.index("wiki retention") :][:400]
    assert "−0.072 −0.072 to −0.072" in axis  # 0.2 nats a token of 4 bytes, in bits per byte


def test_a_small_holdout_is_compared_as_it_was_proven(tmp_path: Path) -> None:
    """Fewer than 40 rows of different lengths have an interval where the source's other rows are known."""
    few = tuple(row for row in run_folder.run_rows() if row.source == "일반대화")[:24]
    lower = tuple(
        replace(row, tuned=replace(row.tuned, content=row.tuned.content - (0.2 + n % 2 / 10) * row.content_tokens))
        for n, row in enumerate(few)
    )
    pair = [other_run(tmp_path / "one", rows=few), other_run(tmp_path / "two", rows=lower)]
    text = text_of(report_runs(pair, out=tmp_path / "both.html", language="en"))
    axis = text[text.index("일반대화 general") :][:500]
    assert re.search(r"24 examples −0\.2\d\d −0\.2\d\d to −0\.2\d\d", axis), axis


def test_the_page_exists_in_korean(runs: list[Path], tmp_path: Path) -> None:
    """Titles and notes are those of the Korean catalogue."""
    korean = texts_in("ko")
    text = text_of(report_runs(runs, out=tmp_path / "both.html", language="ko"))
    for key in ("several.settings", "several.answers", "several.losses_note", "several.parts_note"):
        assert korean(key) in text


def test_what_cannot_be_compared_is_named(runs: list[Path], tmp_path: Path) -> None:
    """Another base, other rows of one source, other tokens of another: each has its sentence, and no figure."""
    rows = run_folder.run_rows()
    moved = tuple(
        replace(row, row_id=f"x{row.row_id}") if row.source == "wiki" else replace(row, content_tokens=99)
        for row in rows
        if row.source != "일반대화"
    )
    other = other_run(tmp_path / "other", base="package:gemma-3-1b", rows=moved)
    text = text_of(report_runs([runs[0], other], out=tmp_path / "both.html", language="en"))
    for expected in (
        "other was measured against another base (package:gemma-3-1b) than first (package:gemma-3-270m)",
        "other was measured on other rows of wiki than first",
        "other reads the same rows of 의료_질문 as other tokens than first",
        "measured for one of them only: 일반대화", "not comparable",
    ):  # fmt: skip
        assert expected in text, expected
    assert "Row by row" not in text


def test_the_page_never_replaces_another_file(runs: list[Path], tmp_path: Path) -> None:
    """A run's own report and any other file are refused; an earlier page of several runs is replaced."""
    own = runs[0] / "report.html"
    own.write_text("<!doctype html>", encoding="utf-8")
    for taken in (own, runs[0] / "recipe.yaml", runs[0]):
        with pytest.raises(RunError, match="not a page that compares runs"):
            report_runs(runs[:2], out=taken)
    with pytest.raises(RunError, match="cannot be written"):
        report_runs(runs[:2], out=tmp_path / "no" / "page.html")
    page = tmp_path / "both.html"
    assert report_runs(runs[:2], out=page) == report_runs(runs[:2], out=page)
    assert own.read_text(encoding="utf-8") == "<!doctype html>"


def test_runs_are_called_by_their_folders(tmp_path: Path) -> None:
    """With what is above where two have one name; a run that is given twice is refused."""
    assert run_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert run_names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    with pytest.raises(RunError, match="is given twice"):
        run_names([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_the_command_takes_several_runs(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page lies in the current folder, named after the runs; --out belongs to several runs."""
    monkeypatch.chdir(tmp_path)
    ended = seodang("report", *runs[:2])
    assert (ended.code, ended.out) == (0, "compared-first-second.html\n")
    assert (tmp_path / "compared-first-second.html").is_file()
    assert seodang("report", runs[0], "--out", "x.html").code == 2
    nowhere = seodang("report", runs[0], "nowhere")
    assert nowhere.code == 2
    assert "nowhere: no such folder" in nowhere.err


def test_the_name_of_a_page_fits_every_file_system(tmp_path: Path) -> None:
    """However long the runs' names are and whatever is in them: at most 255 bytes, no line break or escape sequence."""
    long, odd = tmp_path / ("긴이름의실행" * 14), tmp_path / '\x1b[31mred\n<b> "q"'
    name = _page_name([long, odd, tmp_path / "third"])
    assert name.startswith("compared-긴이름의실행")
    assert name.endswith(".html")
    assert len(f".{name}.1234567890".encode()) <= 255
    assert _page_name([odd, tmp_path / "a b-1.2"]) == "compared-_31mred_b_q_-a_b-1.2.html"


def test_a_page_that_cannot_be_is_one_message(runs: list[Path], tmp_path: Path) -> None:
    """A name that is too long, and a folder that does not exist."""
    for out in (tmp_path / ("a" * 300), tmp_path / "nowhere" / "page.html", runs[0] / "recipe.yaml" / "page.html"):
        with pytest.raises(RunError, match="cannot be written"):
            report_runs(runs[:2], out=out)
