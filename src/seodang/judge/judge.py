"""Does another model find one model's answers better than another's? The judge is examined first.

::

    plan → planted pairs → fit? → pairs, both orders → wins, ties, losses
"""

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from seodang.check.personal_data import personal_data
from seodang.errors import SeodangError
from seodang.judge.client import Client, Failure, Traffic
from seodang.judge.criteria import Choice, Wording, language_of, read_reply
from seodang.judge.independence import refuse_own, related
from seodang.judge.judgement import Calibration, Judged, Judgement, Outcome, PlantedResult, Verdict
from seodang.judge.pairs import Pair, choose, clusters_of, fingerprint
from seodang.judge.planted import NUM_PLANTED, Planted, plant
from seodang.judge.reply_cache import Reply, ReplyCache, cache_file
from seodang.judge.tally import adjust_for_length, shown, tally
from seodang.proof.behaviour import share
from seodang.recipe import Judge
from seodang.secrets import leaks

MOST_ERRORS = 0.1  # of the pairs, beyond which there is no verdict: those that were judged are not a fair sample
BYTES_PER_TOKEN = 4  # UTF-8 bytes, about, of Korean and English in the vocabularies of large models
SHOWN_CHARACTERS = 80  # of a reply that could not be read
SHOWN_REPLIES = 3
Advance = Callable[[int], None]  # is called with the number of pairs that were judged


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePlan:
    """What will be asked of a judge."""

    settings: Judge
    wording: Wording
    planted: tuple[Planted, ...]
    pairs: tuple[Pair, ...]
    fingerprint: str  # of all pairs, also of those that are not asked about
    warnings: tuple[str, ...]

    def prompts(self) -> list[str]:
        """Every message that is sent at most, in order: each pair twice, planted ones first; equal answers never."""
        asked = [*(one.pair for one in self.planted), *(pair for pair in self.pairs if not pair.is_same_text)]
        return [prompt for pair in asked for prompt in _prompts(pair, self.wording)]

    def about_tokens(self) -> int:
        """Of all prompts; the judge's own tokenizer decides."""
        return sum(len(prompt.encode(errors="replace")) for prompt in self.prompts()) // BYTES_PER_TOKEN


def plan(
    pairs: Sequence[Pair], settings: Judge, *, is_medical: bool = False, models: Mapping[str, str] | None = None
) -> JudgePlan:
    """What `judge` with the same arguments would ask. Sends nothing.

    Args:
        pairs: of which at most `settings.questions` are judged; the planted ones are made from all of them.
        is_medical: whether the criteria name the patient's safety.
        models: names of the models that take part → what they are; the judge must be none of them.

    Raises:
        SeodangError: there are no pairs, too few with references, or the judge is one of the models.
    """
    refuse_own(settings.model, models or {})
    if not pairs:
        raise SeodangError(
            "there are no two answers to one question", where="judge", hint="seodang prove asks both models"
        )
    planted = plant(pairs)
    if len(planted) < NUM_PLANTED:
        raise SeodangError(
            f"the judge is examined on {NUM_PLANTED} planted pairs first, and these answers give {len(planted)}",
            where="judge",
            hint="ask more held-out questions: raise ask.holdout in a copy of the run's recipe.yaml, measure with it "
            "(seodang prove RUN --recipe COPY --out FOLDER), and judge FOLDER",
        )
    chosen = choose(pairs, settings.questions)
    texts = [text for pair in pairs for text in (pair.question, pair.ours, pair.theirs, pair.reference) if text]
    return JudgePlan(
        settings=settings,
        wording=Wording(own=settings.criteria, is_medical=is_medical),
        planted=tuple(planted),
        pairs=tuple(chosen),
        fingerprint=fingerprint(pairs),
        warnings=(*_personal(texts), *related(settings.model, models or {})),
    )


def judge(
    pairs: Sequence[Pair],
    settings: Judge,
    *,
    ours: str = "ours",
    theirs: str = "theirs",
    is_medical: bool = False,
    models: Mapping[str, str] | None = None,
    use_cache: bool = True,
    advance: Advance | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Judgement:
    """Have another model compare the answers of two models. It is asked about planted pairs first; where it gets fewer
    than 9 of 10 of them right, it is unfit, nothing else is sent and there is no verdict.

    Args:
        pairs, is_medical, models: as for `plan`.
        settings: where the judge is. Its key is in the environment variable `settings.api_key_env`.
        ours, theirs: names of the two models, for people.
        use_cache: take replies that this judge gave earlier to the same requests; without, they are forgotten.
        advance: called with 1 after each pair.
        sleep: waits so many seconds between two attempts.

    Raises:
        SeodangError: as `plan`; the key is not set.
        JudgeError: the judge cannot be reached or refuses. What it replied is cached: the next call continues there.
    """
    asked = plan(pairs, settings, is_medical=is_medical, models=models)
    replies = cache_file(settings.url, settings.model)
    if not use_cache:
        replies.unlink(missing_ok=True)
    with Client(
        settings.url,
        settings.model,
        api_key=_api_key(settings.api_key_env),
        max_tokens=settings.max_tokens,
        cache=ReplyCache(replies),
        sleep=sleep,
    ) as client:
        calibration = calibrate(client, asked, advance)
        judged = _judge_pairs(client, asked, advance) if calibration.is_fit else ()
    return _judgement(asked, calibration, judged, client.traffic, ours=ours, theirs=theirs)


def calibrate(client: Client, asked: JudgePlan, advance: Advance | None = None) -> Calibration:
    """Ask the judge about pairs of which the first answer is the better one."""
    judged: list[Judged] = []
    for planted in asked.planted:
        judged.append(judge_pair(client, asked.wording, planted.pair, cluster=len(judged)))
        if advance:
            advance(1)
    of, right = Counter(one.fault for one in asked.planted), Counter[str]()
    for planted, one in zip(asked.planted, judged, strict=True):
        right[planted.fault] += one.outcome == "win"
    decided = [one for one in judged if one.outcome in ("win", "loss") and one.log_length_ratio != 0]
    longer = [(one.outcome == "win") == (one.log_length_ratio > 0) for one in decided]
    unread = [one.why for one in judged if one.outcome == "error"]
    return Calibration(
        faults=tuple(PlantedResult(fault=fault, right=right[fault], of=count) for fault, count in of.items()),
        errors=len(unread),
        first_twice=sum(one.first_twice for one in judged),
        second_twice=sum(one.second_twice for one in judged),
        longer=share(longer, [one.cluster for one in decided]) if decided else None,
        examples=tuple(dict.fromkeys(unread))[:SHOWN_REPLIES],
    )


def judge_pair(client: Client, wording: Wording, pair: Pair, *, cluster: int) -> Judged:
    """One pair in both orders: a win or a loss is what both show, an error is what one of them lacks.

    Raises:
        JudgeError: the judge cannot be reached or refuses.
    """
    replies: list[Reply | Failure] = []
    for prompt in () if pair.is_same_text else _prompts(pair, wording):
        replies.append(client.reply(prompt))
        if isinstance(replies[-1], Failure):
            break  # the other order alone decides nothing
    choices = [read_reply(one.text) if isinstance(one, Reply) else None for one in replies]
    outcome, flipped = _outcome(choices)
    texts = [one.text[:SHOWN_CHARACTERS] if isinstance(one, Reply) else None for one in replies] + [None, None]
    return Judged(
        question=pair.question,
        outcome=outcome,
        flipped=flipped,
        replies=(texts[0], texts[1]),
        first_twice=choices == ["A", "A"],
        second_twice=choices == ["B", "B"],
        similar_length=pair.has_similar_length,
        log_length_ratio=math.log((len(pair.ours) + 1) / (len(pair.theirs) + 1)),
        has_reference=pair.reference is not None,
        is_same_text=pair.is_same_text,
        cluster=cluster,
        source=pair.source,
        row_id=pair.row_id,
        why=_why_error(replies, choices) if outcome == "error" else "",
    )


def _judge_pairs(client: Client, asked: JudgePlan, advance: Advance | None) -> tuple[Judged, ...]:
    judged: list[Judged] = []
    for pair, cluster in zip(asked.pairs, clusters_of(asked.pairs), strict=True):
        judged.append(judge_pair(client, asked.wording, pair, cluster=cluster))
        if advance:
            advance(1)
    return tuple(judged)


def _judgement(
    asked: JudgePlan, calibration: Calibration, judged: Sequence[Judged], traffic: Traffic, *, ours: str, theirs: str
) -> Judgement:
    """The figures that follow from the judged pairs; none where the judge cannot be relied on."""
    errors = sum(one.outcome == "error" for one in judged)
    why_none = _why_none(calibration, errors, len(judged))
    counted = () if why_none else judged
    overall = tally(counted)
    verdict: Verdict = shown(overall.difference) if overall else "none"
    swapped = [one for one in counted if one.outcome != "error" and not one.is_same_text]
    languages = sorted({language_of(pair.question) for pair in asked.pairs})
    return Judgement(
        judge=asked.settings.model,
        url=asked.settings.url,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        ours=ours,
        theirs=theirs,
        fingerprint=asked.fingerprint,
        criteria={language: asked.wording.criteria(language) for language in languages},
        calibration=calibration,
        verdict=verdict,
        why_none=why_none,
        pairs=len(asked.pairs),
        errors=errors,
        same_text=sum(one.is_same_text for one in judged),
        all=overall,
        similar_length=tally([one for one in counted if one.similar_length]),
        length_adjusted=adjust_for_length(counted),
        flips=share([one.flipped for one in swapped], [one.cluster for one in swapped]) if swapped else None,
        first_twice=sum(one.first_twice for one in judged),
        second_twice=sum(one.second_twice for one in judged),
        **asdict(traffic),
        judged=tuple(judged),
        warnings=asked.warnings,
    )


def _prompts(pair: Pair, wording: Wording) -> tuple[str, str]:
    """Our answer shown first, then second."""
    return (
        wording.prompt(pair.question, pair.reference, pair.ours, pair.theirs),
        wording.prompt(pair.question, pair.reference, pair.theirs, pair.ours),
    )


def _outcome(choices: Sequence[Choice | None]) -> tuple[Outcome, bool]:
    """(outcome for our answer, whether the orders differ), of the choices with it shown first and second."""
    if not choices:
        return "tie", False
    if len(choices) < 2 or None in choices:
        return "error", False
    ours = (
        {"A": "win", "B": "loss"}.get(str(choices[0]), "tie"),
        {"A": "loss", "B": "win"}.get(str(choices[1]), "tie"),
    )
    if ours == ("win", "win"):
        return "win", False
    return ("loss" if ours == ("loss", "loss") else "tie"), ours[0] != ours[1]


def _why_error(replies: Sequence[Reply | Failure], choices: Sequence[Choice | None]) -> str:
    """What is wrong with the first reply that is at fault."""
    reply = next(one for one, choice in zip(replies, choices, strict=True) if choice is None)
    if isinstance(reply, Failure):
        return reply.what
    cut = "" if reply.finished else ", cut off: see judge.max_tokens"
    return f"cannot be read: {reply.text[:SHOWN_CHARACTERS]!r}{cut}"


def _why_none(calibration: Calibration, errors: int, judged: int) -> str:
    """Why there is no verdict; empty where there is one."""
    if not calibration.is_fit:
        return f"the judge is unfit: it judged {calibration.right} of {calibration.of} planted pairs rightly"
    if errors > MOST_ERRORS * judged:
        return f"pairs without two replies that can be read: {errors} of {judged}"
    return ""


def _personal(texts: Sequence[str]) -> list[str]:
    found = [f"{what} in {count} of {len(texts)} texts" for what, count in personal_data(texts).items()]
    secrets = sorted(
        {leak.what for text in texts for leak in leaks("", text.encode(errors="replace"), {}, paths=False)}
    )
    return [f"the texts may hold personal data: {', '.join([*found, *secrets])}"] if found or secrets else []


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        what = f"the environment variable {variable} is not set"
        raise SeodangError(what, where="judge.api_key_env", hint=f"export {variable}=…; the key is never written")
    return key
