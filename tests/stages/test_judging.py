"""`seodang judge RUN`: what is sent, what the run's folder, its proof, report and card hold afterwards."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import run_folder
from command import seodang
from judge_server import Server, always_first, by_reference, judge_server
from judged_pairs import write_answers
from seodang.errors import SeodangError
from seodang.json_values import from_json
from seodang.judge.judgement import Judgement
from seodang.judge.of_run import judgement_of, with_judgement
from seodang.judge.tally import adjust_for_length, tally
from seodang.proof.proof import proof_of_run
from seodang.publish.base_model import BaseTerms
from seodang.publish.card import card
from seodang.run.evidence import read_answers, read_evidence
from seodang.run.folder import Run
from seodang.show.language import ENGLISH, texts_in
from seodang.show.report import render
from seodang.stages.judging import plan_judgement

NOT_JUDGED = texts_in("ko")("headline.not_judged")
KEY = "sk-test-0123456789abcdefghij"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A proven run whose tuned model answers better than its base."""
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "cache"))
    folder = run_folder.write_run(tmp_path / "demo")
    write_answers(folder, tuned=0.1, base=0.5)
    return Run(folder=folder)


@pytest.fixture
def served() -> Iterator[Server]:
    with judge_server(by_reference) as server:
        yield server


def arguments(run: Run, served: Server, *more: str) -> Sequence[str]:
    return ("judge", str(run.folder), f"judge.url={served.url}", "judge.model=judge-1", *more)


def card_of(run: Run) -> str:
    return card(
        read_evidence(run.folder),
        run.recipe(),
        BaseTerms(name="b", hub=None, license={}),
        ENGLISH,
        repo="me/x",
        adapter=False,
        has_template=True,
    )


def test_until_it_is_judged_everything_says_that_no_answer_was(run: Run) -> None:
    """Report, card and proof, before anyone asked a judge."""
    assert NOT_JUDGED in render(read_evidence(run.folder), "demo")
    assert "No answer was judged" in card_of(run)
    assert proof_of_run(run).verdict.answers == "not judged"


def test_proof_report_and_card_take_the_judgement_in(
    run: Run, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge's name, date, calibration, criteria and figures; every figure follows from the pairs. The key is sent
    and never written. What was judged belongs to these answers: with others, none was judged."""
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    ended = seodang(*arguments(run, served, "judge.api_key_env=MY_JUDGE_KEY"))
    assert ended.code == 0, ended.err
    first = ended.out.splitlines()[0]
    assert "texts stay on this machine" in first
    assert served.url in first
    found = from_json(Judgement, run.read_json("judgement.json"), where="judgement.json")
    assert (found.judge, found.verdict, found.theirs) == ("judge-1", "better", "base")
    assert found.all == tally(found.judged)
    assert found.length_adjusted == adjust_for_length(found.judged)
    assert proof_of_run(run).verdict.answers == "judged better"
    korean, english = run.report.read_text(encoding="utf-8"), card_of(run)
    for what in (f"judge-1의 심사({found.date[:10]})", "승 40", "20쌍 중 20쌍", "환자에게", "사람이 아니라"):
        assert what in korean, what
    for what in (f"Judged by judge-1 on {found.date[:10]}", "40 wins", "20 of 20 right", "환자에게", "not a person"):
        assert what in english, what
    assert NOT_JUDGED not in korean
    assert "o answer was judged" not in english
    assert served.url not in card_of(run)
    assert set(served.keys) == {f"Bearer {KEY}"}
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in ended.out + ended.err
    write_answers(run.folder, tuned=0.3, base=0.5)
    assert "No answer was judged" in card_of(run)
    assert "no answer was judged" in card_of(run)
    assert with_judgement(proof_of_run(run), judgement_of(run, read_answers(run))).verdict.answers == "not judged"


def test_an_unfit_judge_leaves_no_verdict(run: Run) -> None:
    """Exit code 1; the report says why; the proof stays as it was."""
    with judge_server(always_first) as served:
        ended = seodang(*arguments(run, served))
    assert ended.code == 1
    assert "No answer was judged: the judge is unfit. judge-1 judged 0 of 20 planted pairs rightly" in ended.out
    assert "In 20 of 20 planted pairs it chose the answer shown first" in ended.out
    assert proof_of_run(run).verdict.answers == "not judged"
    assert "심사 모델로 쓸 수 없습니다" in run.report.read_text(encoding="utf-8")
    assert "no answer was judged" in card_of(run)


def test_a_dry_run_sends_nothing_and_shows_all_that_would_be_sent(run: Run, served: Server) -> None:
    """How many requests and tokens, the first of each kind; with --json each of them, as the server would get it."""
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    ended = seodang(*arguments(run, served, "--dry-run"))
    assert (ended.code, served.requests) == (0, [])
    assert "120 requests of about" in ended.out
    assert ended.out.count("<answer_A>") == 2
    prompts = json.loads(seodang(*arguments(run, served, "--dry-run", "--json")).out)["prompts"]
    assert (len(prompts), served.requests) == (120, [])
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    assert prompts == plan_judgement(run.folder, overrides=arguments(run, served)[2:]).prompts()


def test_texts_that_leave_the_machine_are_announced_first(run: Run) -> None:
    """For an address elsewhere the first line says so."""
    ended = seodang("judge", run.folder, "judge.url=https://api.example.com/v1", "judge.model=big", "--dry-run")
    assert ended.code == 0
    assert "texts leave this machine" in ended.out.splitlines()[0]


def test_two_runs_are_compared_by_what_both_were_asked(run: Run, served: Server, tmp_path: Path) -> None:
    """--against another run: a judgement of its own file; the report stays about the base; others are counted."""
    other = run_folder.write_run(tmp_path / "other")
    write_answers(other, tuned=0.5, base=0.9, count=40)
    lines = (other / "answers.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (other / "answers.jsonl").write_text("".join(lines[:-2]), encoding="utf-8")
    recipe = (other / "recipe.yaml").read_text(encoding="utf-8").replace("gemma-3-270m-의료-Instruct", "second")
    (other / "recipe.yaml").write_text(recipe, encoding="utf-8")
    ended = seodang(*arguments(run, served, "--against", str(other), "--json"))
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["theirs"], found["verdict"], found["pairs"]) == ("second", "better", 39)
    assert "1 answer of one model alone" in ended.err
    assert json.loads((run.folder / "judgement-second.json").read_text(encoding="utf-8")) == found
    assert not (run.folder / "judgement.json").exists()


def test_damaged_answers_are_one_message(run: Run) -> None:
    """A line that lacks a field is named, by every command that reads the answers."""
    row = json.loads(run.folder.joinpath("answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    del row["stopped"]
    run.append("answers.jsonl", row)
    with pytest.raises(SeodangError, match=r"answers.jsonl:\d+: stopped: missing"):
        read_answers(run)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ([], "names no judge"),
        (["--dry-run"], "--dry-run judge.url="),
        (["--against", "runs/other"], "--against runs/other judge.url="),
        (["judge.url=ftp://x", "judge.model=y"], "judge.url"),
        (["judge.url=http://127.0.0.1:1", "judge.model=gemma-3-270m"], "is the base"),
        (["judge.url=http://127.0.0.1:1", "judge.model=demo"], "is the tuned model"),
        (["judge.url=http://127.0.0.1:1", "judge.model=x", "judge.api_key_env=NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
        ([f"judge.api_key_env={KEY}"], "holds an API key"),
    ],
)
def test_mistakes_are_one_message(run: Run, changes: list[str], what: str) -> None:
    """No judge, a wrong address, a judge that takes part, a key that is missing or stands in the recipe."""
    ended = seodang("judge", run.folder, *changes)
    assert ended.code == 2
    assert what in " ".join(ended.err.split())
    assert KEY not in ended.err
