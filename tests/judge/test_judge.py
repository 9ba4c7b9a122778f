"""Judges whose rule is known, behind a real server: those that judge by something else than the answer are caught."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from judge_server import (
    Asked,
    always_first,
    always_second,
    by_reference,
    every_third,
    judge_server,
    likeness,
    longer,
    nonsense,
    prompts_of,
    read_prompt,
)
from judged_pairs import sample_pairs, spoiled
from seodang.errors import SeodangError
from seodang.judge.client import JudgeError
from seodang.judge.judge import judge, plan
from seodang.judge.judgement import Judgement
from seodang.judge.pairs import Pair
from seodang.recipe import Judge

GOOD = partial(spoiled, share=0.1)
BAD = partial(spoiled, share=0.5, seed=1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies of an earlier test, of a server at the same port, are none of this one's."""
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path))


def settings(url: str, **changes: object) -> Judge:
    return Judge.model_validate({"url": url, "model": "judge-1", **changes})


def judged_by(rule: Callable[[Asked], str], pairs: list[Pair], **server: object) -> Judgement:
    with judge_server(rule, **server) as served:
        return judge(pairs, settings(served.url), sleep=lambda _: None)


def fault_counts(found: Judgement) -> dict[str, tuple[int, int]]:
    return {one.fault: (one.right, one.of) for one in found.calibration.faults}


def test_a_judge_by_the_reference_is_fit_and_finds_the_better_model() -> None:
    """20 of 20 planted pairs; the planted better model is better, with an interval beyond 0, and little flips."""
    found = judged_by(by_reference, sample_pairs(40, GOOD, BAD))
    assert (found.calibration.right, found.calibration.of, found.calibration.is_fit) == (20, 20, True)
    assert set(fault_counts(found).values()) == {(5, 5)}
    assert (found.verdict, found.errors, found.pairs) == ("better", 0, 40)
    assert found.all is not None
    assert found.all.difference.interval is not None
    assert found.all.difference.interval.low > 0.5
    assert found.flips is not None
    assert found.flips.count == 0


def test_a_judge_by_the_reference_finds_the_worse_model() -> None:
    """The same answers the other way round are worse by as much."""
    found = judged_by(by_reference, sample_pairs(40, BAD, GOOD))
    assert found.verdict == "worse"
    assert found.all is not None
    assert found.all.difference.interval is not None
    assert found.all.difference.interval.high < -0.5


def test_equally_good_answers_show_nothing() -> None:
    """Two models that are equally far from the references: no verdict for either."""
    found = judged_by(
        by_reference, sample_pairs(60, partial(spoiled, share=0.3, seed=1), partial(spoiled, share=0.3, seed=2))
    )
    assert found.verdict == "not shown"


def test_a_model_compared_with_itself_is_a_tie_each_time() -> None:
    """Equal answers are ties of which the judge is not asked: even one that always takes the first answer."""
    with judge_server(by_reference) as served:
        found = judge(sample_pairs(30, str, str), settings(served.url))
    assert len(served.requests) == 40  # of the calibration
    assert found.all is not None
    assert (found.all.ties.count, found.all.wins.count, found.all.losses.count) == (30, 0, 0)
    assert (found.verdict, found.same_text, found.flips) == ("not shown", 30, None)


@pytest.mark.parametrize(("rule", "field"), [(always_first, "first_twice"), (always_second, "second_twice")])
def test_a_judge_by_position_is_unfit(rule: Callable[[Asked], str], field: str) -> None:
    """No planted pair survives the swap; how often the position decided is reported; nothing else is sent."""
    with judge_server(rule) as served:
        found = judge(sample_pairs(40, GOOD, BAD), settings(served.url))
    assert len(served.requests) == 40
    assert (found.calibration.right, getattr(found.calibration, field), found.verdict) == (0, 20, "none")
    assert "0 of 20" in found.why_none
    assert (found.all, found.length_adjusted, found.judged) == (None, None, ())


def test_a_judge_by_length_is_unfit() -> None:
    """It finds cut answers and none of the padded and shuffled ones; that the longer one won is reported."""
    found = judged_by(longer, sample_pairs(40, GOOD, BAD))
    counts = fault_counts(found)
    assert counts["cut off"] == (5, 5)
    assert counts["padded with empty phrases"] == (0, 5)
    assert found.verdict == "none"
    assert found.calibration.longer is not None
    assert found.calibration.longer.value == 1.0


def test_a_judge_that_answers_nonsense_is_unfit() -> None:
    """Replies that cannot be read are errors, never ties, and shown."""
    found = judged_by(nonsense, sample_pairs(40, GOOD, BAD))
    assert (found.calibration.errors, found.calibration.right, found.verdict) == (20, 0, "none")
    assert "Consider the moon" in found.calibration.examples[0]


def test_requests_that_fail_are_sent_again() -> None:
    """A server that fails every third request: the same judgement, and how many attempts were made again."""
    pairs = sample_pairs(40, GOOD, BAD)
    found = judged_by(by_reference, pairs, refuse=every_third)
    assert (found.verdict, found.errors, found.requests) == ("better", 0, 120)
    assert found.repeated == 59  # of 179 attempts
    assert found.judged == judged_by(by_reference, pairs).judged


def test_pairs_that_always_fail_are_errors_and_too_many_of_them_leave_no_verdict() -> None:
    """Errors are counted apart, never as ties; beyond a tenth of the pairs there is no verdict."""
    pairs = sample_pairs(100, GOOD, BAD)

    def one_in(share: int) -> Callable[[int, Asked], tuple[int, dict[str, str], str] | None]:
        asked = [pair.question for pair in pairs[::share]]
        return lambda number, one: (400, {}, "refused") if number > 40 and one.question in asked else None

    few, many = (judged_by(by_reference, pairs, refuse=one_in(share)) for share in (20, 3))
    assert few.all is not None
    assert few.errors == 5 == sum(one.outcome == "error" for one in few.judged)
    assert few.all.wins.of + few.errors == few.pairs
    assert few.verdict == "better"
    assert many.verdict == "none"
    assert f"{many.errors} of" in many.why_none
    assert "status 400: refused" in next(one.why for one in many.judged if one.outcome == "error")


def test_a_win_counts_only_if_it_survives_the_swap() -> None:
    """A judge that errs towards the first answer unless one is much better: its flips are ties, and counted."""

    def leaning(asked: Asked) -> str:
        return by_reference(asked) if abs(likeness(asked, asked.a) - likeness(asked, asked.b)) > 0.15 else "A"

    found = judged_by(leaning, sample_pairs(100, partial(spoiled, share=0.2), partial(spoiled, share=0.4, seed=1)))
    assert found.all is not None
    assert found.flips is not None
    assert found.calibration.is_fit
    assert 0 < found.flips.count == found.first_twice == found.all.ties.count
    assert found.flips.interval is not None


def test_an_interrupted_judgement_continues_from_its_cache() -> None:
    """What was replied before the judge broke down is not asked again; a cache can be forgotten."""
    pairs = sample_pairs(40, GOOD, BAD)
    with judge_server(by_reference, refuse=lambda number, _: (500, {}, "") if 70 < number <= 100 else None) as served:
        with pytest.raises(JudgeError, match="3 requests in a row failed: status 500"):
            judge(pairs, settings(served.url), sleep=lambda _: None)
        done = len(served.requests)
        served.refuse = lambda number, asked: None
        found = judge(pairs, settings(served.url))
        assert (found.cached, found.requests, found.verdict) == (70, 50, "better")
        assert len(served.requests) == done + 50
        again = judge(pairs, settings(served.url))
        assert (again.cached, again.requests, again.judged) == (120, 0, found.judged)
        fresh = judge(pairs, settings(served.url), use_cache=False)
        assert (fresh.cached, fresh.requests) == (0, 120)


def test_a_judgement_without_the_cache_can_be_continued_too() -> None:
    """Earlier replies are forgotten; those that were given since are taken by the next call."""
    pairs = sample_pairs(40, GOOD, BAD)
    with judge_server(by_reference) as served:
        judge(pairs, settings(served.url))
        done = len(served.requests)
        served.refuse = lambda number, _: (500, {}, "") if number > done + 70 else None
        with pytest.raises(JudgeError, match="3 requests in a row failed"):
            judge(pairs, settings(served.url), use_cache=False, sleep=lambda _: None)
        served.refuse = lambda number, asked: None
        found = judge(pairs, settings(served.url))
        assert (found.cached, found.requests) == (70, 50)


def test_the_plan_is_what_is_sent() -> None:
    """A plan's prompts are those that the server gets, in their order; both orders of each pair."""
    pairs = sample_pairs(40, GOOD, BAD)
    with judge_server(by_reference) as served:
        asked = plan(pairs, settings(served.url))
        judge(pairs, settings(served.url))
    assert prompts_of(served) == asked.prompts()
    first, second = map(read_prompt, asked.prompts()[40:42])
    assert (first.a, first.b) == (second.b, second.a) == (pairs[0].ours, pairs[0].theirs)
    assert all((body["temperature"], body["max_tokens"]) == (0, 16) for body in served.requests)


def test_at_most_so_many_questions_are_judged_evenly_over_all() -> None:
    """judge.questions bounds what is sent; the planted pairs may come from all."""
    pairs = sample_pairs(60, GOOD, BAD)
    asked = plan(pairs, settings("http://127.0.0.1:1", questions=20))
    assert list(asked.pairs) == pairs[::3]
    assert len(asked.planted) == 20


def test_too_few_references_to_examine_a_judge_is_one_error() -> None:
    """Without 20 planted pairs nothing is sent; the command that brings more answers is one that there is."""
    with pytest.raises(SeodangError, match="these answers give 10") as error:
        plan(sample_pairs(3, GOOD, BAD), settings("http://127.0.0.1:1"))
    assert "ask.holdout in a copy of the run's recipe.yaml" in error.value.hint
    assert "seodang prove RUN --recipe COPY --out FOLDER" in error.value.hint


@pytest.mark.parametrize(
    ("judge_name", "models"),
    [
        ("gemma-3-270m", {"package:gemma-3-270m": "the base"}),
        ("google/Gemma-3-1B-pt", {"/models/gemma-3-1b-pt/": "the base"}),
        ("demo:latest", {"demo": "the tuned model"}),
        ("gemma-3-1b-it", {"google/gemma-3-1b-it": "the template's donor"}),
    ],
)
def test_a_judge_that_takes_part_is_refused_by_name(judge_name: str, models: dict[str, str]) -> None:
    """Base, tuned model and the template's donor judge nothing; the message says that names alone are compared."""
    with pytest.raises(SeodangError, match=next(iter(models.values()))) as error:
        plan(sample_pairs(40, GOOD, BAD), settings("http://127.0.0.1:1", model=judge_name), models=models)
    assert "a name is all that can be checked" in error.value.hint


def test_relatives_and_personal_data_are_warnings() -> None:
    """A judge of the base's family, and what looks like personal data or a key in the texts: counted, never shown."""
    pairs = sample_pairs(40, GOOD, BAD)
    texts = (
        "주민번호 900101-1234567입니다",
        "010-1234-5678로 전화 주세요",
        "mail me: kim@example.org",
        "key hf_" + "Ab1" * 10,
    )
    pairs += [Pair(question=text, ours="가", theirs="나") for text in texts]
    asked = plan(pairs, settings("http://127.0.0.1:1", model="gemma-3-27b-it"), models={"gemma-3-1b-pt": "the base"})
    personal, related = asked.warnings
    for what in (
        "resident registration number in 1",
        "mobile phone number in 1",
        "e-mail address in 1",
        "Hugging Face",
    ):
        assert what in personal
    assert not any(text in personal for text in ("900101", "5678", "kim@", "Ab1"))
    assert "the base (gemma-3-1b-pt)" in related
