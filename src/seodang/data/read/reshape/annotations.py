"""Exports of annotation tools (Label Studio, Argilla, doccano) → a row for each annotator's answer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from seodang.data.read.column_names import ANSWER, QUESTION, TURNS, column_key
from seodang.data.read.raw_rows import RawRow, RawRows, raw_row
from seodang.data.read.reshape.nested import mapped
from seodang.errors import SourceError

RESPONSES, USERS, STATUS = ".responses", ".responses.users", ".responses.status"  # columns that Argilla 2 writes
LISTED = 8  # names in a message
MARKS = ("status", "was_cancelled")  # of an answer that does not count
RESPONSE_KEYS = frozenset({"value", "status"})  # of Argilla 1's responses, beside `user_id`


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What one record of a tool holds."""

    shown: Mapping[str, Any]  # what the annotators saw, and what else is known of the record
    answers: Sequence[Mapping[str, Any]]  # of each annotator: name → text, with the mark of a discarded answer


_Parse = Callable[[Mapping[str, Any]], _Record | None]  # None: no such record


def annotations(raw: RawRows, sample: Sequence[RawRow], named: Sequence[str], *, is_text: bool) -> RawRows | None:
    """A row for each annotator's answer to a record; None: the rows are no export of a tool that is known.

    Args:
        named: columns that the recipe names.
        is_text: plain text is wanted.

    Raises:
        SourceError: it does not show which texts are right answers.
    """
    tools: dict[str, _Parse] = {"Label Studio": _label_studio, "Argilla": _argilla, "doccano": _doccano}
    found = (name for name, parse in tools.items() if any(parse(row.fields) for row in sample))
    tool = next(found, None)
    _refuse_without_status(raw, sample)
    if tool is None or (tool == "doccano" and (is_text or not _holds_answers(raw, named))):
        return None
    parse = tools[tool]
    shown, given = dict[str, None](), dict[str, None]()
    for row in raw.rows():
        if record := parse(row.fields):
            shown.update(dict.fromkeys(record.shown))
            given.update(dict.fromkeys(name for answer in record.answers for name in answer))
    if not named and not is_text:
        _refuse_unknown(raw, tool, shown, given)
    remark = f"{tool}'s records: a row for each annotator's answer"
    split = partial(_answered, parse, tuple(given))
    return mapped(raw, split, columns=tuple(shown | given), remarks=(*raw.remarks, remark))


def _answered(parse: _Parse, given: Sequence[str], rows: Iterator[RawRow]) -> Iterator[RawRow]:
    for row in rows:
        record = parse(row.fields)
        if record is None:  # of another file: counted where rows are read
            yield row
            continue
        for answer in record.answers or ({},):  # without one, the row is dropped and counted
            yield raw_row(row.file, row.row, {**record.shown, **dict.fromkeys(given), **answer}, row.changed)


def _label_studio(fields: Mapping[str, Any]) -> _Record | None:
    """A task as the JSON export has it; its rows are those of the export JSON-MIN."""
    shown, tasks = fields.get("data"), fields.get("annotations", fields.get("completions"))
    if not isinstance(shown, dict) or not isinstance(tasks, list):
        return None
    if not all(isinstance(task, dict) and isinstance(task.get("result"), list) for task in tasks):
        return None
    answers = [
        {**_results(task["result"]), "was_cancelled": bool(task.get("was_cancelled") or task.get("skipped"))}
        for task in tasks
    ]
    return _Record(shown=shown, answers=answers)


def _results(regions: Sequence[Any]) -> dict[str, Any]:
    """Name → what the annotator wrote or chose there: one value, or a list."""
    found: dict[str, list[Any]] = {}
    chats = set()
    for region in regions:
        name, kind, value = (region.get(key) for key in ("from_name", "type", "value"))
        if not isinstance(name, str) or not isinstance(value, dict):
            continue
        content = value.get("text" if kind == "textarea" else kind)
        found.setdefault(name, []).append(_only(content))
        if kind == "chatmessage":
            chats.add(name)
    return {name: values if name in chats else _only(values) for name, values in found.items()}


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _argilla(fields: Mapping[str, Any]) -> _Record | None:
    """A record of Argilla 2 (columns `NAME.responses`) or of Argilla 1 (lists of responses)."""
    used: set[str] = set()
    by_user: dict[Any, dict[str, Any]] = {}
    for name, value in fields.items():
        if name.endswith(RESPONSES) and (question := name.removesuffix(RESPONSES)) + STATUS in fields:
            columns = (fields.get(question + ending) or [] for ending in (USERS, RESPONSES, STATUS))
            responses = list(zip(*columns, strict=False))
            used |= {question + ending for ending in (USERS, RESPONSES, STATUS)}
        elif responses := _responses(value):
            question = name
            used.add(name)
        else:
            continue
        for user, text, status in responses:
            by_user.setdefault(user, {})[question] = text
            by_user[user]["status"] = status
    shown = {name: value for name, value in fields.items() if name not in used}
    return _Record(shown=shown, answers=list(by_user.values())) if used else None


def _responses(value: Any) -> list[tuple[Any, Any, Any]]:
    """(user, text, status) of each response in a column of Argilla 1's; none if it holds anything else."""
    if isinstance(value, dict) and value.keys() >= RESPONSE_KEYS and all(isinstance(v, list) for v in value.values()):
        value = [dict(zip(value, items, strict=False)) for items in zip(*value.values(), strict=False)]
    if not isinstance(value, list) or not all(isinstance(one, dict) and one.keys() >= RESPONSE_KEYS for one in value):
        return []
    return [(one.get("user_id"), one["value"], one["status"]) for one in value]


def _refuse_without_status(raw: RawRows, sample: Sequence[RawRow]) -> None:
    """Argilla 2's `to_json` leaves out which answers were discarded."""
    for row in sample:
        if isinstance(row.fields.get("fields"), dict) and isinstance(row.fields.get("responses"), dict | list):
            raise SourceError(
                "Argilla's records, in a form that does not show which answers were discarded",
                where=raw.where,
                hint='export them with dataset.records.to_datasets().to_json("FILE.jsonl"); '
                "from Argilla 1, dataset.format_as('datasets').to_json",
            )


def _doccano(fields: Mapping[str, Any]) -> _Record | None:
    """A text with a list of texts or of classes, which the export does not tell apart."""
    labels = fields.get("label")
    if not isinstance(fields.get("text"), str) or not isinstance(labels, list) or not labels:
        return None
    if not all(isinstance(one, str) for one in labels):
        return None
    shown = {name: value for name, value in fields.items() if name != "label"}
    return _Record(shown=shown, answers=[{"label": one} for one in labels])


def _holds_answers(raw: RawRows, named: Sequence[str]) -> bool:
    if named:
        return "label" in named
    raise SourceError(
        "'label' holds lists of texts, as doccano exports them: answers or classes",
        where=raw.where,
        hint="if they are answers, name `question: text` and `answer: label` in the recipe; "
        "to use the texts alone, name `text: text`",
    )


def _refuse_unknown(raw: RawRows, tool: str, shown: Iterable[str], given: Iterable[str]) -> None:
    """Refuse what annotators gave if it is not known as answers: it may judge what they saw, or correct it."""
    written = [name for name in given if name not in MARKS]
    kinds = set(map(column_key, written))
    knows_answer = not kinds.isdisjoint(QUESTION | ANSWER | TURNS)
    has_two_answers = any(column_key(name) in TURNS for name in shown if name not in written)
    if written and (not knows_answer or has_two_answers):
        raise SourceError(
            f"{tool}'s annotators saw {_listed(shown)} and gave {_listed(written)}: "
            "it is not known which are questions and right answers",
            where=raw.where,
            hint="name the columns with `question:` and `answer:`; leave answers that they found wrong out first",
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, islice(names, LISTED)))
