"""language: one catalogue per language, complete, and used for all that people read."""

import re
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter

import pytest

import run_folder
from paths import ROOT
from seodang.run.evidence import read_evidence
from seodang.show import sentences
from seodang.show.language import ENGLISH, LANGUAGES, Language, language_of, texts_in
from seodang.show.report import render, report, texts_of

SHOWING = [*(ROOT / "src" / "seodang").rglob("*.py"), *(ROOT / "src" / "seodang").rglob("*.jinja")]
KEY = re.compile(r"""\b(?:texts|t|ENGLISH|self|self\.texts)(?:\.count)?\(\s*"([a-z_]+(?:\.[a-z_ ]+)*)\"""")


class Foreign(HTMLParser):
    """The text of a page but what is of another language, or no text of seodang."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[bool] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br", "input"):
            lang = dict(attrs).get("lang")
            own = tag not in ("style", "script", "pre", "code") and lang in (None, "ko")
            self.open.append(own and (not self.open or self.open[-1]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "link", "br", "input"):
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1]:
            self.text += f" {data}"


def placeholders(text: str) -> list[str]:
    """The names in a text, in any order."""
    return sorted(name for _, name, _, _ in Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_catalogue_is_complete(language: Language) -> None:
    """The same keys as the English one, and the same placeholders in each text."""
    texts = texts_in(language)
    assert texts.entries.keys() == ENGLISH.entries.keys()
    for key, text in texts.entries.items():
        assert placeholders(text) == placeholders(ENGLISH.entries[key]), key


def test_every_text_that_is_used_is_there() -> None:
    """Each key that code or page names in full is one of the catalogue's."""
    found = {key for path in SHOWING for key in KEY.findall(path.read_text(encoding="utf-8")) if "." in key}
    named = {key for key in found if not key.endswith("_")}  # the beginning of one
    assert len(named) > 100
    assert named <= ENGLISH.entries.keys()


def test_korean_questions_give_a_korean_report() -> None:
    """Auto: Korean where more than half of the questions are; each question counts once."""
    assert language_of("auto", ["감기에 걸렸어요", "What is a cold?", "What is a cold?", "약은요?"]) == "ko"
    assert language_of("auto", ["감기?", "What is a cold?"]) == "en"
    assert language_of("auto", []) == "en"
    assert language_of("en", ["감기에 걸렸어요"]) == "en"


def test_the_recipe_and_the_caller_choose(tmp_path: Path) -> None:
    """What is asked for wins over the recipe, the recipe over the questions."""
    run = run_folder.write_run(tmp_path / "run")
    assert texts_of(read_evidence(run)).language == "ko"
    with (run / "recipe.yaml").open("a", encoding="utf-8") as recipe:
        recipe.write("report: {language: en}\n")
    assert texts_of(read_evidence(run)).language == "en"
    assert texts_of(read_evidence(run), "ko").language == "ko"


def test_the_korean_page_is_korean(tmp_path: Path) -> None:
    """No sentence of the English catalogue stands in it, and it names its language."""
    run = run_folder.write_run(tmp_path / "run")
    html = report(run, "ko").read_text(encoding="utf-8")
    text = " ".join(Foreign(html).text.split())
    assert '<html lang="ko">' in html
    assert "의료_질문 답변의 손실이 토큰당 0.906 nat 줄었습니다(0.760 ~ 1.052)" in text
    korean = texts_in("ko")
    for key, english in ENGLISH.entries.items():
        if len(english) > 12 and not placeholders(english) and korean.entries[key] != english:
            assert english not in text, key


def test_the_korean_verdict_has_the_same_sentences() -> None:
    """As many clauses and sentences as in English, with the same numbers."""
    proof, korean = run_folder.run_proof(), texts_in("ko")
    assert len(sentences.headline(proof, korean)) == len(sentences.headline(proof))
    for one, other in zip(sentences.sentences(proof), sentences.sentences(proof, korean), strict=True):
        assert sorted(re.findall(r"\d+(?:[.,]\d+)*", one)) == sorted(re.findall(r"\d+(?:[.,]\d+)*", other)), other


def test_unproved_runs_are_shown_in_both_languages(tmp_path: Path) -> None:
    """A run that has only begun has a page in each language."""
    run = run_folder.write_run(tmp_path / "run")
    for name in ("proof.json", "answers.jsonl", "metrics.jsonl"):
        (run / name).unlink()
    for language in LANGUAGES:
        assert texts_in(language)("page.not_proved") in render(read_evidence(run), "run", texts_in(language))
