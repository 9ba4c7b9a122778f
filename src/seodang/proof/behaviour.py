"""How answers behave, from their text alone: do they end, repeat themselves, echo the question, stay Korean.

Knows no model and no tokenizer: whoever has `answers.jsonl` can recompute every number.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from seodang.data.read.clean import is_blank
from seodang.proof.statistics import Estimate, Interval, PairedShare, effective_clusters, paired_share, ratio, wilson
from seodang.types import Answer, AnswerKind

NGRAM = 4  # seq-rep-4
LOOPING = 0.3  # seq-rep-4 from which an answer counts as repeating itself
LONG_RUN = 20  # letters without a space: no word, but a loop that lost its spaces
SHORT_QUESTION = 6  # letters; shorter ones ("감기?") stand in good answers too
HANGUL = re.compile(r"[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How many answers something holds for."""

    count: int
    of: int
    interval: Interval | None  # Wilson's, of clusters; None: they are all of one

    @property
    def value(self) -> float:
        """0 to 1."""
        return self.count / self.of


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerBehaviour:
    """How one model's answers to one group of questions behave."""

    answers: int
    stopped: Share  # ended by themselves
    echo: Share  # repeat the question
    broken: int  # do not end by themselves, repeat themselves, or are blank
    mean_tokens: Estimate
    repetition: Estimate  # mean seq-rep-4, 0 to 1
    hangul: Estimate | None  # mean share of the letters; None without letters
    length_ratio: Estimate | None  # characters per character of the references; None without references
    chrf: Estimate | None  # mean chrF2 against the references, 0 to 100; None without references
    likeness: Estimate | None  # mean of chrF2 against the own reference − against another question's; None: too few


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupBehaviour:
    """Both models' answers to one group of questions."""

    kind: AnswerKind
    source: str | None  # of holdout questions
    base: AnswerBehaviour | None
    tuned: AnswerBehaviour | None
    stops: PairedShare | None  # base, then tuned; None where not both answered, or there is one question alone


def behaviour(answers: Sequence[Answer], clusters: Mapping[str, str] | None = None) -> tuple[GroupBehaviour, ...]:
    """How the answers of base and tuned model behave, in the order in which the groups were asked.

    Args:
        clusters: row_id → cluster; answers to other questions are joined by equal questions.
    """
    clusters = clusters or {}
    groups: dict[tuple[AnswerKind, str | None], dict[str, list[Answer]]] = {}
    for answer in answers:
        models = groups.setdefault((answer.kind, answer.source), {"base": [], "tuned": []})
        models[answer.model].append(answer)
    return tuple(
        GroupBehaviour(
            kind=kind,
            source=source,
            base=_describe(models["base"], clusters),
            tuned=_describe(models["tuned"], clusters),
            stops=_stops(models["base"], models["tuned"], clusters),
        )
        for (kind, source), models in groups.items()
    )


def _describe(answers: Sequence[Answer], clusters: Mapping[str, str]) -> AnswerBehaviour | None:
    if not answers:
        return None
    names = [_cluster(answer, clusters) for answer in answers]

    def mean(of: Callable[[Answer], float | None], per: Callable[[Answer], float] = lambda _: 1.0) -> Estimate | None:
        found = [
            (value, per(answer), name)
            for answer, name in zip(answers, names, strict=True)
            if (value := of(answer)) is not None
        ]
        return ratio(*zip(*found, strict=True)) if found else None

    tokens, repeated = mean(lambda answer: answer.new_tokens), mean(lambda answer: repetition(answer.text))
    assert tokens, "no answers"
    assert repeated, "no answers"
    own, other = _chrf_of(answers, own=True), _chrf_of(answers, own=False)
    hangul, chrf = mean(lambda answer: hangul_share(answer.text)), mean(lambda answer: own.get(id(answer)))
    return AnswerBehaviour(
        answers=len(answers),
        stopped=share([answer.stopped for answer in answers], names),
        echo=share([echoes(answer.question, answer.text) for answer in answers], names),
        broken=sum(is_broken(answer) for answer in answers),
        mean_tokens=_uncertain(tokens),
        repetition=_uncertain(repeated),
        hangul=hangul and _uncertain(hangul),
        length_ratio=mean(
            lambda answer: len(answer.text) if answer.reference else None, lambda answer: len(answer.reference or "")
        ),
        chrf=chrf and _uncertain(chrf),
        likeness=mean(lambda answer: own[id(answer)] - other[id(answer)] if id(answer) in other else None),
    )


def _uncertain(found: Estimate) -> Estimate:
    """Without an interval where all answers are alike: so are all resamples of them, which is no certainty."""
    is_alike = found.interval is not None and found.interval.low == found.interval.high
    return replace(found, interval=None, detectable=None) if is_alike else found


def share(holds: Sequence[bool], clusters: Sequence[str] | Sequence[int]) -> Share:
    """A share of at least one answer with Wilson's interval, for which a cluster counts once, whatever its size.

    Args:
        holds, clusters: [answers]; answers of equal cluster are one piece of evidence.
    """
    count, of = sum(holds), len(holds)
    sizes = list(Counter(clusters).values())
    n_eff = effective_clusters(sizes)
    return Share(count=count, of=of, interval=wilson(count / of * n_eff, n_eff) if len(sizes) > 1 else None)


def is_broken(answer: Answer) -> bool:
    """Whether an answer cannot be used as it is, whatever it says: it does not end, repeats itself, or is blank.

    One that was cut off before it had the length of its reference might have ended.
    """
    does_not_end = not answer.stopped and len(answer.text) >= len(answer.reference or "")
    return does_not_end or repetition(answer.text) >= LOOPING or is_blank(answer.text)


def _cluster(answer: Answer, clusters: Mapping[str, str]) -> str:
    return clusters.get(answer.row_id or "", answer.question)


def _stops(base: Sequence[Answer], tuned: Sequence[Answer], clusters: Mapping[str, str]) -> PairedShare | None:
    names = [_cluster(answer, clusters) for answer in tuned]
    asked = [[(answer.row_id, answer.question) for answer in answers] for answers in (base, tuned)]
    if asked[0] != asked[1] or len(set(names)) < 2:
        return None
    return paired_share([answer.stopped for answer in base], [answer.stopped for answer in tuned], names)


def _chrf_of(answers: Sequence[Answer], *, own: bool) -> dict[int, float]:
    """chrF2 of each answer that has a reference, by its id: against its own, or the next other reference in the list.

    chrF: Popović 2015; sacrebleu's defaults (character 6-grams, β = 2), because Korean words change their endings.
    """
    referenced = [answer for answer in answers if answer.reference]
    if not referenced:
        return {}
    from sacrebleu.metrics import CHRF  # late: 0.3 s that other commands need not wait for

    metric, scores = CHRF(), {}
    for place, answer in enumerate(referenced):
        following = (referenced[place - distance].reference for distance in range(len(referenced) - 1, 0, -1))
        others = (reference for reference in following if reference != answer.reference)
        reference = answer.reference if own else next(others, None)
        if reference:
            scores[id(answer)] = metric.sentence_score(answer.text, [reference]).score
    return scores


def repetition(text: str) -> float:
    """seq-rep-4: the share of 4-grams that stood before in the same text, 0 to 1.

    1 − distinct / all, after Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", section 6.
    Units are words and punctuation marks, so that models with different tokenizers compare; a run of more than 20
    letters without a space counts letter by letter. A text of fewer than four units repeats nothing: 0.
    """
    units = [unit for word in re.findall(r"\w+|[^\w\s]", text) for unit in (word if len(word) > LONG_RUN else [word])]
    grams = [tuple(units[i : i + NGRAM]) for i in range(len(units) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def echoes(question: str, text: str) -> bool:
    """Whether the answer repeats the question; only letters and digits count, and case does not.

    Questions of fewer than six letters echo only where the answer starts with them.
    """
    asked, answered = _letters(question), _letters(text)
    if not asked:
        return False
    return answered.startswith(asked) if len(asked) < SHORT_QUESTION else asked in answered


def hangul_share(text: str) -> float | None:
    """Hangul among the letters, 0 to 1; None for a text without letters."""
    letters = [char for char in unicodedata.normalize("NFC", text) if char.isalpha()]
    return sum(HANGUL.match(char) is not None for char in letters) / len(letters) if letters else None


def _letters(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFC", text).casefold() if char.isalnum())
