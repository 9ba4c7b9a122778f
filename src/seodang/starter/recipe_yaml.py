"""The starter recipe as YAML that people read: few lines, each with its reason."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from seodang.starter.comments import Comment
from seodang.starter.roles import RoleAssignment
from seodang.starter.settings import ProposedBase, Settings
from seodang.starter.token_count import How
from seodang.starter.walk import HUB

NAMED = "as you named it"
WIDE = 1 << 30  # no line is folded
LENGTHS: Mapping[How, str] = {
    "counted": "of one row, counted by the model's tokenizer",
    "estimated": "of one row, by an estimate",
    "overestimated": "of one row, by a high estimate: the model's tokenizer is not on this machine",
}
KINDS = {"text": "plain texts", "qa": "questions with answers", "alpaca": "instructions with answers"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One source as it will stand in the recipe."""

    assignment: RoleAssignment
    name: str
    paths: tuple[str, ...]  # as the recipe holds them
    holdout: int | None  # None: the default


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Everything that the recipe will hold."""

    name: str
    file: str  # of the recipe
    base: ProposedBase
    entries: Sequence[Entry]
    settings: Settings
    domain: Sequence[str]  # questions
    general: Sequence[str]
    minutes: int | None  # on 2 CPU cores
    lengths: How = "estimated"  # of rows, in tokens
    comment: Comment = str  # an English comment in the reader's language


def recipe_text(draft: Draft) -> str:
    """The recipe's YAML."""
    say, folder = draft.comment, "the run's folder: runs/NAME"
    runs = f"the run: about {draft.minutes} minutes on 2 CPU cores, less on more" if draft.minutes else "the run"
    command = draft.file if re.fullmatch(r"[\w./-]+", draft.file) else f'"{_comment(draft.file)}"'
    lines = [
        "# " + say("Written by `seodang init`. Change what you like; what is left out has a default."),
        "#",
        f"#   seodang inspect {command}  {say('what can be known before training')}",
        f"#   seodang tune {command}     {say(runs)}",
        "",
        f"name: {_value(draft.name)} # {say(folder)}",
        f"model: {_value(draft.base.path)} # {say(draft.base.why)}",
    ]
    if draft.base.template is not None:
        lines.append(f"template: {draft.base.template}" + (f" # {say(NAMED)}" if draft.base.is_template_named else ""))
    lines += [
        "# "
        + say("domain: to learn; general: so that the rest is not forgotten; retention: text that is only measured;"),
        f"# {say('holdout: rows that are measured and never trained on')}",
        "sources:",
    ]
    for entry in draft.entries:
        lines += _source(entry, say)
    if draft.settings.by_row:
        lines.append(f"split: {{by: row}} # {say('not by question: a source repeats a few')}")
    return "\n".join([*lines, *_train(draft), *_ask(draft)]) + "\n"


def _source(entry: Entry, say: Comment) -> list[str]:
    profile, why = entry.assignment.profile, entry.assignment.why
    more = "" if profile.whole else "more than "
    kind = KINDS.get(profile.layout.format, "conversations")
    tokens = round(float(profile.tokens.mean()))
    about = say(f"{more}{profile.num_rows:,} {kind}, {profile.language}, ~{tokens:,} tokens each")
    lines = [
        f"  - name: {_value(entry.name)} # {about}",
        f"    role: {entry.assignment.role}" + (f" # {_comment(say(why))}" if why else ""),
        f"    {_place(entry.paths)}",
    ]
    lines += [f"    {key}: {_value(column)} # {say('a guess, please check')}" for key, column in profile.keys.items()]
    if profile.merge_turns:
        lines.append(f"    merge_turns: true # {say('often several turns of one role follow each other')}")
    if entry.holdout is not None:
        lines.append(f"    holdout: {entry.holdout}")
    return lines


def _place(paths: Sequence[str]) -> str:
    if paths[0].startswith(HUB):
        return f"hub: {_value(paths[0].removeprefix(HUB))}"
    return "path: " + (_value(paths[0]) if len(paths) == 1 else f"[{', '.join(map(as_value, paths))}]")


def _train(draft: Draft) -> list[str]:
    settings, say = draft.settings, draft.comment
    limit = [say(LENGTHS[draft.lengths])]
    if settings.too_long >= 0.0005:
        limit.append(say(f"{settings.too_long:.1%} of the rows are longer and left out"))
    lines = ["train:"]
    if settings.steps is not None:
        first = say("a first try; for all rows write epochs: 3 in its place")
        lines.append(f"  steps: {settings.steps} # {first}")
    else:
        lines.append(f"  epochs: {settings.epochs}")
    lines += [
        f"  examples_per_step: {settings.examples_per_step}",
        f"  max_tokens: {settings.max_tokens} # {'; '.join(limit)}",
        f"  learning_rate: {_rate(draft.base.learning_rate)}",
    ]
    if settings.step_seconds is not None and settings.total is not None:
        lines.append(f"  eval_every: {max(1, settings.total // 2)}")
        lines.append("  keep_checkpoints: 1")
    return lines


def _ask(draft: Draft) -> list[str]:
    short = draft.settings.step_seconds is not None
    lines = []
    for kind, questions in (("domain", draft.domain), ("general", draft.general)):
        if questions:
            lines.append(f"  {kind}:")
            lines += [f"    - {_value(question)}" for question in questions]
    if draft.domain:
        lines.append(f"  repeat: {{question: {as_value(draft.domain[0])}, times: 10}}")
    if short:
        lines.append("  generate: {max_new_tokens: 128}")
    about = draft.comment("base and tuned model, before and after; put your own questions here")
    return [f"ask: # {about}", *lines] if lines else []


def _rate(rate: float) -> str:
    """2.0e-5: YAML takes 2e-05 for text."""
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits}e{int(power)}"


def _value(value: str) -> str:
    """A text as YAML that reads as the same text."""
    return yaml.safe_dump([value], default_flow_style=False, allow_unicode=True, width=WIDE).strip().removeprefix("- ")


def as_value(value: Any) -> str:
    """A text, or keys with values, for use inside {…} too."""
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=WIDE).strip()[1:-1]


def _comment(text: str) -> str:
    """A text that cannot end a comment's line."""
    return "".join(mark if mark.isprintable() else " " for mark in text)


def as_mapping(text: str, model: str, paths: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The keys of a recipe's text, with the paths that hold here.

    Args:
        model: the base.
        paths: source name → paths.
    """
    data: dict[str, Any] = {**yaml.safe_load(text), "model": model}
    for source in data["sources"]:
        if "path" not in source:
            continue
        source["path"] = list(paths[source["name"]])
    return data
