"""Which file is the field, which is general, which is only measured: as the user gave it, else asked, else guessed."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize

from seodang.errors import SeodangError, SourceError, plural
from seodang.starter.file_profile import FileProfile
from seodang.starter.guess_columns import Ask
from seodang.types import SourceRole

FIELD_SHARE = 0.3  # of the questions that use words of a field
FIELD = re.compile(
    r"\b(medic\w*|health\w*|disease\w*|symptom\w*|treat(ed|ment\w*)?|patient\w*|drugs?|dose|diagnos\w*|clinic\w*"
    r"|syndrome|cancer|surgery|law(s|yer\w*)?|legal\w*|court|contract\w*|statut\w*|tax(es)?|insurance|financ\w*"
    r"|stocks?|loans?|invest\w*)\b"
    r"|의료|의학|의약|병원|질병|질환|증상|치료|처방|복용|투약|부작용|환자|진단|수술|당뇨|혈압|약[은을이의]"
    r"|법률|법령|법원|소송|계약|판결|조항|세금|보험|금융|주식|투자|대출|특허",
    re.IGNORECASE,
)
FIELD_NAMES = re.compile(
    r"(?<![a-z])(med(?!ia|iu)|health|clinic|drug|pharm|doctor|patient|law|legal|statut|financ|bank|tax)"
    r"|의료|의학|병원|의약|건강|약|법|금융"
)
GENERAL_NAMES = re.compile(
    r"general|common|chit|daily|casual|alpaca|dolly|realqa|oasst|ultrachat|sharegpt|openorca|gsm|일반|일상|상식|잡담"
)
ROLES: Mapping[SourceRole, str] = {
    "domain": "questions and answers of the field, to learn",
    "general": "other questions and answers, against forgetting",
    "retention": "plain text that must not be forgotten; measured",
}


@dataclass(frozen=True, kw_only=True)
class RoleAssignment:
    """A file in its role."""

    profile: FileProfile
    role: SourceRole
    why: str = ""  # how the role was found, where the user gave none


def assign_roles(
    profiles: Sequence[FileProfile], given: Mapping[str, SourceRole], ask: Ask | None
) -> list[RoleAssignment]:
    """Give each file its role.

    Args:
        given: path → role, as far as the user gave it.
        ask: asked for every other file; without it a guess is taken, with its reason.

    Raises:
        SourceError: no file is left to train on.
        SeodangError: the input ended before a question was answered.
    """
    guesses = _guess([one for one in profiles if one.path not in given], has_domain="domain" in given.values())
    assigned = []
    for one in profiles:
        if one.path in given:
            assigned.append(RoleAssignment(profile=one, role=given[one.path]))
            continue
        guess = guesses[one.path]
        if ask is not None:
            try:
                guess = replace(guess, role=_asked(one, guess.role, ask), why="")
            except SeodangError as stopped:
                if isinstance(stopped, SourceError):
                    raise
                roles = [(given.get(file.path) or guesses[file.path].role, file.path) for file in profiles]
                typed = shlex.join(["seodang", "init", *(word for role, path in roles for word in (f"--{role}", path))])
                raise SeodangError(stopped.what, hint=f"the roles as guessed: {typed}") from None
        assigned.append(guess)
    if all(one.role == "retention" for one in assigned):
        assigned = [_trained_text(one) if one.profile.path not in given else one for one in assigned]
    if all(one.role == "retention" for one in assigned):
        texts = all(one.profile.is_text for one in assigned)
        raise SourceError(
            "nothing to train on: " + ("plain text holds no answers" if texts else "retention is only measured"),
            where=", ".join(one.profile.path for one in assigned[:3]),
            hint="add a file of questions and answers; text itself is trained on with --domain FILE",
        )
    return assigned


def _trained_text(one: RoleAssignment) -> RoleAssignment:
    """Answers of the field that have no questions, where there is nothing else: they are learnt as plain text."""
    if not one.profile.is_answers_alone:
        return one
    why = "answers without their questions, and nothing else to train on: learnt as plain text"
    return RoleAssignment(profile=one.profile, role="domain", why=why)


def _asked(one: FileProfile, guess: SourceRole, ask: Ask) -> SourceRole:
    example = f", such as {one.questions[0][:60]!r}" if one.questions else " of plain text"
    question = f"{one.path} ({plural(one.num_rows, 'row')}{example}): which role?"
    answer = ask(question, {str(role): meaning for role, meaning in ROLES.items()}, guess)
    for role in ROLES:
        if role == answer:
            return role
    raise SourceError(f"unknown role {answer!r}", where=one.path, hint=f"choose one of {', '.join(ROLES)}")


def _guess(profiles: Sequence[FileProfile], *, has_domain: bool) -> dict[str, RoleAssignment]:
    """path → a role; one file of questions is the field if nothing else is."""
    guesses = {one.path: _guess_alone(one) for one in profiles}
    with_questions = [one for one in guesses.values() if not one.profile.is_text]
    if with_questions and not has_domain and not any(one.role == "domain" for one in with_questions):
        best = max(with_questions, key=lambda one: (one.why != "a guess: its name", _field_share(one.profile)))
        why = (
            "a guess: the only file of questions"
            if len(with_questions) == 1
            else "a guess: nothing else looks more like a field"
        )
        guesses[best.profile.path] = RoleAssignment(profile=best.profile, role="domain", why=why)
    return guesses


def _guess_alone(one: FileProfile) -> RoleAssignment:
    if one.is_text:
        what = "answers without their questions, as plain text" if one.is_answers_alone else "plain text"
        return RoleAssignment(profile=one, role="retention", why=f"a guess: {what}")
    name = normalize("NFC", Path(one.path).stem).casefold()
    if GENERAL_NAMES.search(name):
        return RoleAssignment(profile=one, role="general", why="a guess: its name")
    if FIELD_NAMES.search(name):
        return RoleAssignment(profile=one, role="domain", why="a guess: its name")
    share = _field_share(one)
    if share >= FIELD_SHARE:
        return RoleAssignment(
            profile=one, role="domain", why=f"a guess: {share:.0%} of its questions use words of a field"
        )
    return RoleAssignment(profile=one, role="general", why="a guess: its questions are of no one field")


def _field_share(one: FileProfile) -> float:
    return sum(bool(FIELD.search(question)) for question in one.questions) / max(len(one.questions), 1)
