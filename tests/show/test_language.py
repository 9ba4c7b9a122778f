"""language: one catalogue per language, complete, and used for all that people read."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter

import pytest

import run_folder
from paths import ROOT
from seodang.json_values import to_json
from seodang.model.placement import choose_placement
from seodang.proof.proof import prove_rows
from seodang.recipe import Model
from seodang.run.evidence import read_evidence
from seodang.run.manifest import Blend, Hardware, TemplateFacts
from seodang.show import sentences
from seodang.show.language import ENGLISH, LANGUAGES, Language, language_of, texts_in
from seodang.show.report import in_english, render, report, texts_of
from seodang.types import ModelFacts, Placement

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
    assert in_english(run) == f"seodang report {run} --language en"
    with (run / "recipe.yaml").open("a", encoding="utf-8") as recipe:
        recipe.write("report: {language: en}\n")
    assert texts_of(read_evidence(run)).language == "en"
    assert in_english(run) is None
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


def test_levels_hold_together_only_where_there_are_several(tmp_path: Path) -> None:
    """A single interval holds by itself; the level has no decimals that say nothing."""
    evidence = read_evidence(run_folder.write_run(tmp_path / "run"))
    assert "All 3 intervals hold together with 95%." in render(evidence, "run", ENGLISH)
    rows = [row for row in run_folder.run_rows() if row.source == "wiki"]
    proof = prove_rows(rows, [], run_folder.run_proof().compared, roles={"wiki": "retention"})
    html = render(replace(evidence, proof=to_json(proof)), "run", ENGLISH)
    assert "with its 95% interval. Left of the line" in html


@pytest.mark.parametrize("stage", ["convert", "split", "separate", "render", "render holdout", "mix"])
def test_every_stage_has_a_name(stage: str) -> None:
    """Also that of held-out rows."""
    assert texts_in("ko").known("stage", stage) != stage


def test_every_fact_of_the_manifest_has_a_name() -> None:
    """No field is shown by what the program calls it."""
    of_manifest = (ModelFacts, TemplateFacts, Placement, Hardware, Blend)
    names = {field.name for one in of_manifest for field in fields(one)}
    assert {name for name in names if f"fact.{name}" not in ENGLISH.entries} == set()


def test_unproved_runs_are_shown_in_both_languages(tmp_path: Path) -> None:
    """A run that has only begun has a page in each language."""
    run = run_folder.write_run(tmp_path / "run")
    for name in ("proof.json", "answers.jsonl", "metrics.jsonl"):
        (run / name).unlink()
    for language in LANGUAGES:
        assert texts_in(language)("page.not_proved") in render(read_evidence(run), "run", texts_in(language))


def _constants(tree: ast.Module) -> dict[str, str]:
    """Names of a module's texts."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Tuple):
            names = [node.targets[0]] if isinstance(node.targets[0], ast.Name) else node.targets[0].elts
            values = [node.value] if len(names) == 1 else getattr(node.value, "elts", [])
            for name, value in zip(names, values, strict=False):
                if isinstance(name, ast.Name) and (text := _texts(value, {})):
                    found[name.id] = text[0]
    return found


def _value(part: ast.AST) -> str:
    """What stands for a value in a sentence: 7, or 7 of what is counted."""
    match part:
        case ast.FormattedValue(value=ast.Call(func=ast.Name(id="plural"), args=[_, ast.Constant(value=str(word))])):
            return f"7 {word}s"
    return "7"


def _texts(node: ast.AST, known: Mapping[str, str]) -> list[str]:
    """The sentences that an expression can give, with 7 for each value; none where it is no text of its own."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Name(id=name):
            return [known[name]] if name in known else []
        case ast.JoinedStr(values=parts):
            return ["".join(part.value if isinstance(part, ast.Constant) else _value(part) for part in parts)]
        case ast.IfExp(body=one, orelse=other):
            return [*_texts(one, known), *_texts(other, known)]
        case ast.BinOp(left=left, right=right):
            firsts, seconds = _texts(left, known), _texts(right, known)
            return [first + second for first in firsts for second in seconds]
        case ast.Call(func=ast.Name(id="clean"), args=[text, *_]):
            return _texts(text, known)
    return []


def recorded_in_code() -> Iterator[tuple[str, str]]:
    """(where, sentence) of findings, of reasons why rows are dropped, and of changes, as far as code spells them."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src" / "seodang").rglob("*.py")}
    everywhere = {name: text for path, tree in trees.items() for name, text in _constants(tree).items()}
    for path, tree in trees.items():
        known = everywhere | _constants(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            asked = [key.value for key in call.keywords if name in ("Finding", "Sign") and key.arg in ("what", "hint")]
            if name == "UnusableRowError" or (name == "add" and ast.unparse(call.func) == "changes.add"):
                asked += call.args[:1]
            for text in (text for value in asked for text in _texts(value, known)):
                if any(map(str.isalpha, text)):
                    yield f"{path.name}:{call.lineno}", text


PUT_TOGETHER = (  # in code from several parts
    "about 70 of 300 answers (23%) are served behind other token ids than their whole conversation has in front of them"
    " (served: 1 2 ('ab'); in the conversation: no such ids); they are trained as they stand",
    "template.earlier_answers: split trains each as it is served, with 1.20 times the tokens; context supervises the "
    "other 77% of the answers alone",
    "set train.checkpointing=full, or set train.pack_tokens=512, or take a smaller model",
    "one question has 900 of 1,000 rows, which stay in one split",
    "the template altered the text of an answer (3 rows)", "an answer is left out: longer than 128 tokens",
    "in 3 of 40 rows text was encoded twice: it shows ê°€ where 가 was meant",
    "read as qa (question: 질문, answer: 답변); not used: 번호", "24 texts cut into 77 windows of at most 256 tokens",
    "medical: 6,461 examples, 481,521 supervised tokens, 80.0% of all (asked for 80.0%)",
    "general: thinned to its share",
    "7,012 rows to train on, 24 held out by question", "rows with HTML tags or entities (kept as they are): 2",
    "longer than 256 tokens even without its question", "question is in the holdout of medical", "not trained",
)  # fmt: skip
NOT_WHOLE = (
    "7; 7",
    "7 7 of 7 rows, which stay in one split",
    "template.earlier_answers: 7",
    "7 (7 rows)",
    "7 that cannot be read",
    "7 with a duplicate key",
)


def test_recorded_sentences_have_a_korean_text() -> None:
    """Every finding, reason and change that code spells has one, with the values of the English sentence in it."""
    korean, found = texts_in("ko"), list(recorded_in_code())
    assert len(found) > 120
    missing = [
        (where, text)
        for where, text in (*found, *(("", text) for text in PUT_TOGETHER))
        if text not in NOT_WHOLE and not re.search("[가-힣]", korean.recorded(text) or "")
    ]
    assert missing == []
    for text in PUT_TOGETHER[3:]:
        values = re.findall(r"\d+(?:[.,]\d+)*", text)
        assert sorted(re.findall(r"\d+(?:[.,]\d+)*", korean.recorded(text) or "")) == sorted(values), text


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("frozen", [False, True])
def test_reasons_of_a_placement_have_a_korean_text(dtype: str, frozen: bool) -> None:
    """Device, precision and attention, as this machine has them, and as others would."""
    korean = texts_in("ko")
    reasons = choose_placement(Model(path="x", device="cpu", dtype=dtype), frozen=frozen).reasons
    elsewhere = ("Device: NVIDIA H200.", "Processes: 8 share the rows of every step.", "Device: cuda:1, as asked.")
    precisions = ("the GPU has compute capability 7.5, and bf16 needs 8.0", "this CPU has AMX for bf16")
    weights = [f"Precision: float32 weights, float32 products; {why}." for why in precisions]
    weights.append("Precision: bfloat16 weights, their updates rounded stochastically (train.optimizer: adamw_bf16).")
    for reason in (*reasons, *elsewhere, *weights):
        assert re.search("[가-힣]", korean.recorded(reason) or ""), reason


def test_recorded_sentences_are_translated_whole_or_not_at_all() -> None:
    """Parts of a sentence are translated too, names are left as they are; English has the sentence itself."""
    korean = texts_in("ko")
    assert korean.recorded("rows to measure with: only 24; a result from so few is mostly chance") == (
        "평가할 행이 24개뿐입니다. 행이 이렇게 적으면 결과는 대부분 우연에 좌우됩니다"
    )
    assert korean.recorded("an answer is left out: longer than 128 tokens") == "답변 하나가 빠짐: 128토큰보다 긺"
    assert korean.recorded("role 환자 read as user") == "역할 환자: user로 읽음"
    assert korean.recorded("something that nobody wrote") is None
    assert korean.recorded("data.csv: the file holds JSON") == "data.csv: 파일의 내용이 JSON임"
    assert korean.recorded("data.csv: something that nobody wrote") is None
    assert ENGLISH.recorded("not trained") == "not trained"
