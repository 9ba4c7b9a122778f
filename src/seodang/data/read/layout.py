"""Which columns of a source hold what: named by the recipe, or known by their names. Knows columns, not single rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

from seodang.data.read import column_names
from seodang.data.read.column_names import column_key
from seodang.data.read.raw_rows import RawRow, RawRows
from seodang.data.read.reshape.nested import pair_in_lists
from seodang.data.read.serialized import opens_value, parse_text
from seodang.data.read.turns.choices import choice_columns, is_choice_mark
from seodang.data.read.turns.loss_flags import ROW_FLAGS, are_flags
from seodang.data.read.turns.messages import is_turn, turn_list
from seodang.data.read.turns.reviews import review_columns
from seodang.data.read.turns.variants import is_variant
from seodang.errors import SourceError, nearest
from seodang.recipe import RowFormat, Source

SAMPLE_ROWS = 200
PAIR_FORMATS: frozenset[RowFormat] = frozenset({"qa", "alpaca", "prompt_completion"})
CONVERSATION_FORMATS: frozenset[RowFormat] = frozenset({"messages", "sharegpt"})


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns that a source's rows are read from; None: there is no such column."""

    format: RowFormat
    question: str | None = None
    answer: str | None = None
    context: str | None = None  # put before the question, a blank line between
    input: str | None = None  # put after the question, a blank line between: alpaca's input
    messages: str | None = None
    text: str | None = None
    reasoning: str | None = None  # the thoughts that led to the answer
    history: str | None = None  # earlier exchanges, as LLaMA-Factory's alpaca rows have them
    question_type: str | None = None  # whether a row is a multiple-choice question
    choices: tuple[str, ...] | None = None  # of multiple-choice questions; None: not to be looked for
    system: str | None = None
    tools: tuple[str, ...] = ()  # a row has them in one of these
    loss_flags: tuple[str, ...] = ()  # whether a row has a loss
    reviews: tuple[str, ...] = ()  # whether a row's answer is marked as a bad one
    roles: Mapping[str, str] = field(default_factory=dict)  # name in the data, in lower case → role
    merge_turns: bool = False  # consecutive turns of one role become one
    serialized: frozenset[str] = frozenset()  # columns whose texts are printed lists of one text, as `['…']`

    @property
    def columns(self) -> Mapping[str, str]:
        """What each column in use is."""
        named = ("question", "answer", "reasoning", "context", "input", "history", "messages", "text", "system")
        single = {what: name for what in named if (name := getattr(self, what)) is not None}
        several = {"tools": self.tools, "loss": self.loss_flags, "marked as bad": self.reviews}
        return single | {what: ", ".join(names) for what, names in several.items() if names}

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """The columns one of which each row fills: turns, a text, or question and answer."""
        columns = (self.messages, self.text, self.question, self.answer)
        return tuple(column for column in columns if column is not None)

    @property
    def used(self) -> frozenset[str]:
        """The columns in use."""
        return frozenset({*self.columns.values(), *self.tools, *self.loss_flags, *self.reviews})


def find_layout(raw: RawRows, source: Source) -> Layout:
    """How the rows of a source are to be read.

    Raises:
        SourceError: no rows, a column named that is not there, no known columns, or more than one reading.
    """
    sample = list(islice(raw.rows(), SAMPLE_ROWS))
    if not sample:
        raise SourceError("there are no rows", where=raw.where, hint="name a file that holds rows")
    _refuse_unknown(raw, source)
    _refuse_single_turns(raw, source, sample)
    found = _named_layouts(raw, source, sample)
    if found is None:
        found = [layout for layout in _known_layouts(raw.columns, sample) if _is_wanted(layout, source)]
        found = [replace(layout, context=source.context or layout.context) for layout in found]
    found = [layout for layout in found if layout.answer not in {source.context, source.reasoning} - {None}]
    found = _without_copies(found, sample)
    if len(found) != 1:
        raise _not_one_reading(found, raw, source, sample)
    layout = _with_more_columns(found[0], raw.columns, source)
    layout = replace(
        layout,
        loss_flags=_loss_flags(layout, raw.columns, sample) if source.is_trained else (),
        reviews=_reviews(layout, raw.columns, sample),
        serialized=_serialized(layout, sample),
        roles={name.strip().casefold(): role for name, role in source.roles.items()},
        merge_turns=source.merge_turns,
        choices=_choices(layout, raw.columns) if source.answer is None else None,
    )
    _refuse_choices(layout, raw, sample)
    return layout


def require_column(column: str, key: str, raw: RawRows) -> None:
    """Check that a column that the recipe names is there, in any row.

    Raises:
        SourceError: with the columns there are and the nearest one.
    """
    if column in raw.columns or any(column in row.fields for row in raw.rows()):
        return
    raise SourceError(
        f"{key}: no column is named {column!r}{nearest(column, raw.columns)}",
        where=raw.where,
        hint=f"columns there are: {', '.join(raw.columns)}",
    )


def _refuse_unknown(raw: RawRows, source: Source) -> None:
    for key in ("question", "answer", "context", "messages", "text", "reasoning"):
        if (column := getattr(source, key)) is not None:
            require_column(column, key, raw)


def _named_layouts(raw: RawRows, source: Source, sample: Sequence[RawRow]) -> list[Layout] | None:
    """The layouts that the recipe's column names allow; None if it names none."""
    pair = source.question is not None or source.answer is not None
    if pair + (source.messages is not None) + (source.text is not None) > 1:
        raise SourceError(
            "the recipe names columns of more than one reading",
            where=f"sources.{source.name}",
            hint="keep `question:` with `answer:`, or `messages:`, or `text:`",
        )
    allowed = (
        PAIR_FORMATS
        if pair
        else CONVERSATION_FORMATS
        if source.messages
        else frozenset({"text"})
        if source.text
        else None
    )
    if allowed is None:
        return None
    if source.format != "auto" and source.format not in allowed:
        raise SourceError(
            f"format: {source.format} does not go with the columns that the recipe names",
            where=f"sources.{source.name}.format",
            hint=f"leave `format:` out, or make it {' or '.join(sorted(allowed))}",
        )
    if source.messages is not None:
        return [Layout(format=_conversation_format(source.messages, sample), messages=source.messages)]
    if source.text is not None:
        return [Layout(format="text", text=source.text)]
    columns = [name for name in raw.columns if name not in (source.context, source.question, source.answer)]
    questions = [source.question] if source.question else _question_columns(columns)
    answers = [source.answer] if source.answer else _answer_columns(columns)
    fixed: RowFormat = "qa" if source.format == "auto" else source.format
    found = [Layout(format=fixed, question=q, answer=a, context=source.context) for q in questions for a in answers]
    return found if source.answer else _with_references(found, raw.columns, sample)


def _known_layouts(columns: Sequence[str], sample: Sequence[RawRow]) -> list[Layout]:
    """Every layout that the columns' names and values allow."""
    key = {column_key(name): name for name in reversed(columns)}
    conversations = _conversation_columns(columns, sample)
    if _question_columns(columns) and _answer_columns(columns):  # each of the two may be a list of turns
        pair_names = column_names.QUESTION | column_names.ANSWER
        conversations = [name for name in conversations if column_key(name) not in pair_names]
    layouts = [Layout(format=_conversation_format(name, sample), messages=name) for name in conversations]
    left = [name for name in columns if name not in conversations]
    if "prompt" in key and "completion" in key:
        layouts.append(Layout(format="prompt_completion", question=key["prompt"], answer=key["completion"]))
        left = [name for name in left if name not in (key["prompt"], key["completion"])]
    for question, answer in column_names.PAIRS:
        if question in key and answer in key:
            layouts.append(Layout(format="qa", question=key[question], answer=key[answer]))
            left = [name for name in left if column_key(name) not in (column_names.QUESTION | column_names.ANSWER)]
    if "instruction" in key and "output" in key:
        layouts.append(
            Layout(format="alpaca", question=key["instruction"], answer=key["output"], input=key.get("input"))
        )
        left = [name for name in left if column_key(name) not in ("instruction", "input", "output")]
    questions, answers = _question_columns(left), _answer_columns(left)
    context = next((name for name in left if column_key(name) in column_names.CONTEXT), None)
    layouts += [Layout(format="qa", question=q, answer=a, context=context) for q in questions for a in answers]
    if not layouts and not questions and not answers:
        layouts += [Layout(format="text", text=name) for name in columns if column_key(name) in column_names.TEXT]
    return _with_references(layouts, columns, sample)


def _with_references(layouts: list[Layout], columns: Sequence[str], sample: Sequence[RawRow]) -> list[Layout]:
    """The layouts, and those with a correction or a reference in the place of the answer."""
    texts = [name for name in columns if any(isinstance(row.fields.get(name), str) for row in sample)]
    more: list[Layout] = []
    for layout in layouts:
        if layout.answer is not None:
            is_system = column_key(layout.answer) in column_names.SYSTEM_ANSWER
            better = column_names.CORRECTION | (column_names.REFERENCE if is_system else frozenset())
            more += [replace(layout, answer=name) for name in texts if column_key(name) in better]
    return more if more and {*map(column_key, columns)} >= column_names.RAGAS else [*layouts, *more]


def _question_columns(columns: Sequence[str]) -> list[str]:
    return _by_name(columns, column_names.QUESTION, column_names.SHORT_QUESTION, column_names.SHORT_ANSWER)


def _answer_columns(columns: Sequence[str]) -> list[str]:
    return _by_name(columns, column_names.ANSWER, column_names.SHORT_ANSWER, column_names.SHORT_QUESTION)


def _by_name(columns: Sequence[str], known: frozenset[str], short: str, partner: str) -> list[str]:
    keys = [column_key(name) for name in columns]
    found = [name for name, key in zip(columns, keys, strict=True) if key in known]
    if not found:  # `info.question`, of an object that was taken apart
        found = [name for name, key in zip(columns, keys, strict=True) if key.rpartition(".")[2] in known]
    if not found and partner in keys:
        found = [name for name, key in zip(columns, keys, strict=True) if key == short]
    return found


def _conversation_columns(columns: Sequence[str], sample: Sequence[RawRow]) -> list[str]:
    """Columns of turns; those that bear a usual name, if any does."""
    found = [name for name in columns if _holds_turns(name, sample)]
    usual = [name for name in found if column_key(name.rpartition(".")[2]) in column_names.TURNS]
    return usual or found


def _first_turns(column: str, sample: Sequence[RawRow]) -> list[Any] | None:
    return next((turns for row in sample if (turns := turn_list(row.fields.get(column)))), None)


def _holds_turns(column: str, sample: Sequence[RawRow]) -> bool:
    turns = _first_turns(column, sample)
    if turns is None:
        return False
    is_usual = column_key(column.rpartition(".")[2]) in column_names.TURN_LISTS
    return is_turn(turns[0]) or (is_usual and is_variant(turns[0]))


def _conversation_format(column: str, sample: Sequence[RawRow]) -> RowFormat:
    first = (_first_turns(column, sample) or [None])[0]
    return "sharegpt" if isinstance(first, dict) and first.get("from") else "messages"


def _is_wanted(layout: Layout, source: Source) -> bool:
    if source.format in ("auto", layout.format):
        return True
    return {layout.format, source.format} <= CONVERSATION_FORMATS or (
        source.format == "qa" and layout.format in PAIR_FORMATS
    )


def _with_more_columns(layout: Layout, columns: Sequence[str], source: Source) -> Layout:
    """The layout with the columns that hold system texts, tools, thoughts and what else belongs to a row."""
    if layout.format == "text":
        return layout
    free = {column_key(name): name for name in reversed(columns) if name not in layout.used}

    def first(known: Iterable[str]) -> str | None:
        return next((name for key, name in reversed(free.items()) if key in known), None)

    layout = replace(
        layout,
        system=first(column_names.SYSTEM),
        tools=tuple(name for name in columns if column_key(name) in column_names.TOOLS and name not in layout.used),
        reasoning=source.reasoning,
    )
    if layout.messages is not None or source.question is not None or source.answer is not None:
        return layout  # whoever names the columns names them all
    return replace(
        layout,
        reasoning=source.reasoning or first(column_names.REASONING),
        history=first(column_names.HISTORY),
        question_type=first(column_names.QUESTION_TYPE),
    )


def _without_copies(found: list[Layout], sample: Sequence[RawRow]) -> list[Layout]:
    """One reading where a pair of columns only repeats what a column of turns holds, as Magpie's sets do."""
    talks = [layout for layout in found if layout.messages is not None]
    if len(talks) != 1 or len(found) < 2:
        return found
    return [layout for layout in found if layout is talks[0] or not _repeats(layout, talks[0], sample)]


def _repeats(pair: Layout, talk: Layout, sample: Sequence[RawRow]) -> bool:
    for row in sample:
        turns = turn_list(row.fields.get(talk.messages or "")) or []
        texts = {text for turn in turns if isinstance(turn, dict) for text in turn.values() if isinstance(text, str)}
        cells = [row.fields.get(column) for column in (pair.question, pair.answer) if column is not None]
        if not all(cell in texts for cell in cells if isinstance(cell, str)) or not cells:
            return False
    return True


def _serialized(layout: Layout, sample: Sequence[RawRow]) -> frozenset[str]:
    """The columns all of whose texts are printed lists of one text, or answers as SQuAD has them."""
    columns = [layout.question, layout.answer, layout.context, layout.input, layout.text, layout.system]
    return frozenset(column for column in columns if column is not None and _is_serialized(column, sample))


def _loss_flags(layout: Layout, columns: Sequence[str], sample: Sequence[RawRow]) -> tuple[str, ...]:
    """The columns that bear the name of a flag, and hold nothing but flags."""
    return tuple(
        name
        for name in columns
        if name not in layout.used
        and column_key(name) in ROW_FLAGS
        and are_flags(row.fields.get(name) for row in sample)
    )


def _choices(layout: Layout, columns: Sequence[str]) -> tuple[str, ...] | None:
    if layout.answer is None:
        return None
    return tuple(name for name in choice_columns(columns) if name not in layout.used)


def _reviews(layout: Layout, columns: Sequence[str], sample: Sequence[RawRow]) -> tuple[str, ...]:
    """The columns that mark answers as bad."""
    free = [name for name in columns if name not in layout.used]
    is_kto = {"prompt", "completion"} <= {column_key(name) for name in columns}
    return review_columns(free, (row.fields for row in sample), is_kto=is_kto)


def _is_serialized(column: str, sample: Sequence[RawRow]) -> bool:
    cells = [cell for row in sample if (cell := row.fields.get(column))]
    return bool(cells) and all(isinstance(cell, str) and _holds_one_text(cell) for cell in cells)


def _holds_one_text(cell: str) -> bool:
    if not opens_value(cell):
        return False
    try:
        value = parse_text(cell)
    except ValueError:
        return False
    if isinstance(value, dict):
        return {"text", "answer_start"} <= value.keys() and isinstance(value["text"], list)
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)


def single_turns(columns: Sequence[str], sample: Sequence[RawRow]) -> tuple[str, str] | None:
    """The columns of role and content where each row is one turn."""
    keys = {column_key(name): name for name in reversed(columns)}
    role = next((keys[key] for key in column_names.TURN_ROLE if key in keys), None)
    content = next((keys[key] for key in column_names.TURN_CONTENT if key in keys), None)
    if role is None or content is None:
        return None
    roles = [value for row in sample if (value := row.fields.get(role)) is not None]
    is_known = all(isinstance(name, str) and name.strip().casefold() in column_names.ROLES for name in roles)
    return (role, content) if roles and is_known else None


def _refuse_single_turns(raw: RawRows, source: Source, sample: Sequence[RawRow]) -> None:
    """Rows that are turns would be read as texts, each by itself."""
    if any((source.question, source.answer, source.messages, source.text)):
        return
    if found := single_turns(raw.columns, sample):
        raise SourceError(
            f"each row is a single turn, not a conversation ({', '.join(found)})",
            where=raw.where,
            hint='join the turns of a conversation into one row: {"messages": [{"role": "user", "content": "…"}, …]}; '
            "or add a column conversation_id",
        )


def _refuse_choices(layout: Layout, raw: RawRows, sample: Sequence[RawRow]) -> None:
    """Refuse rows whose answer is the number of a choice: the model would learn the number."""
    if layout.answer is None or not layout.choices:
        return
    answers = [answer for row in sample if (answer := row.fields.get(layout.answer)) not in (None, "")]
    if answers and all(map(is_choice_mark, answers)):
        raise SourceError(
            f"these are multiple-choice rows: {layout.answer!r} holds numbers of choices ({answers[0]}), not answers",
            where=raw.where,
            hint="write the choice's text into a column and name it: `answer: COLUMN`",
        )


def _not_one_reading(found: list[Layout], raw: RawRows, source: Source, sample: Sequence[RawRow]) -> SourceError:
    """The error for no reading, or more than one."""
    if not found and (pair := pair_in_lists(sample)) is not None:
        path, question, answer = pair
        return SourceError(
            f"{path!r} holds lists of questions with answers",
            where=raw.where,
            hint=f"name `question: {question}` and `answer: {answer}` in the recipe for a row of each, "
            f"or `messages: {path}` where each list is one conversation",
        )
    listed = ", ".join(raw.columns[:30])
    if found:
        readings = " or ".join(
            "(" + ", ".join(f"{what}: {name}" for what, name in layout.columns.items()) + ")" for layout in found[:4]
        )
        keys = "`messages:`" if all(layout.messages for layout in found) else "`question:` and `answer:`"
        keys = "`text:`" if all(layout.text for layout in found) else keys
        return SourceError(
            f"the columns can be read in more than one way: {readings}",
            where=raw.where,
            hint=f"name the columns in the recipe with {keys}",
        )
    questions, answers = _question_columns(raw.columns), _answer_columns(raw.columns)
    if questions and not answers and source.format not in CONVERSATION_FORMATS:
        what = f"no column is known to hold answers (columns: {listed}); {questions[0]!r} seems to hold questions"
        return SourceError(
            what, where=raw.where, hint="name the column with `answer:`; rows without answers cannot teach"
        )
    if answers and not questions and source.format not in CONVERSATION_FORMATS:
        return SourceError(
            f"no column is known to hold questions (columns: {listed}); {answers[0]!r} seems to hold answers. "
            "Questions in other files cannot be matched without a key in both: the order of rows is never used",
            where=raw.where,
            hint=f"name the column with `question:`; or train the answers as plain text: `text: {answers[0]}`",
        )
    wanted = "" if source.format == "auto" else f" as format: {source.format}"
    return SourceError(
        f"cannot tell what the columns hold{wanted}: {listed}",
        where=raw.where,
        hint="name them with `question:` and `answer:`, or `messages:`, or `text:`; "
        "if these names are data, add a header line to the file",
    )
