"""A run's answers as pairs, the judgement that its folder holds, and the proof that takes it in."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seodang.json_values import from_json
from seodang.judge.judgement import Judgement
from seodang.judge.pairs import Pair, fingerprint, pair_answers
from seodang.proof.proof import Proof
from seodang.proof.verdict import Answers
from seodang.run.folder import JUDGEMENT, Run
from seodang.types import Answer

BASE = "base"  # whose answers a run's are compared with by default
_ANSWERS: Mapping[str, Answers] = {
    "better": "judged better",
    "worse": "judged worse",
    "not shown": "judged, not shown",
    "none": "not judged",
}


def base_and_tuned(answers: Sequence[Answer], clusters: Mapping[str, str] | None = None) -> tuple[list[Pair], int]:
    """The tuned model's answers with the base's, and the number of those without a partner."""
    tuned, base = ([answer for answer in answers if answer.model == model] for model in ("tuned", "base"))
    return pair_answers(tuned, base, clusters)


def read_judgement(data: Mapping[str, Any] | None, answers: Sequence[Answer], *, where: str) -> Judgement | None:
    """The judgement that judgement.json holds, if it is of these answers: a run that is proven again may have others.

    Raises:
        SeodangError: it is damaged, or was written by another version of seodang.
    """
    if data is None:
        return None
    found = from_json(Judgement, dict(data), where=where)
    return found if found.fingerprint == fingerprint(base_and_tuned(answers)[0]) else None


def with_judgement(proof: Proof, judgement: Judgement | None) -> Proof:
    """The proof whose verdict says what a judge made of the answers; what is not usable or was not asked stays so."""
    if proof.verdict.answers in ("not usable", "not asked"):
        return proof
    answers = _ANSWERS[judgement.verdict] if judgement else "not judged"
    return replace(proof, verdict=replace(proof.verdict, answers=answers))


def judgement_of(run: Run, answers: Sequence[Answer]) -> Judgement | None:
    """The judgement in the run's folder, if there is one of these answers.

    Raises:
        SeodangError: it is damaged, or was written by another version of seodang.
    """
    path = run.folder / JUDGEMENT
    data = run.read_json(JUDGEMENT) if path.is_file() else None
    return read_judgement(data, answers, where=str(path))
