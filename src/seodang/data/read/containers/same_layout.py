"""Which of many files belong together: files of one folder may be questions, answers, texts. Knows columns, no rows."""

from collections.abc import Iterable, Mapping, Sequence

from seodang.data.read import column_names
from seodang.data.read.column_names import column_key
from seodang.data.read.containers.object_files import FileColumns
from seodang.errors import SourceError
from seodang.recipe_rules import JOIN

EXAMPLES = 3  # files named for a layout
LAYOUTS = 4  # named in a message
LISTED = 8  # columns
NEVER_PAIRED = (
    "Questions and answers are in separate files. Without a key in both they cannot be matched: "
    "the order of the files is never used"
)

Signature = tuple[str, ...]


def signature(columns: Sequence[str], named: Iterable[str]) -> Signature:
    """The columns that decide how rows are read: equal for files that can be read together.

    Args:
        named: columns that the recipe names.
    """
    tops = {part.strip().split(".")[0] for name in named for part in name.split(JOIN)} | {*named}
    if here := tuple(sorted(tops & {*columns})):
        return here
    keys = {name: column_key(name) for name in columns}
    paired = column_names.QUESTION | column_names.ANSWER | column_names.TURNS
    found = {name for name, key in keys.items() if key in paired}
    if "instruction" in keys.values():
        found -= {name for name in found if keys[name] == "input"}  # many rows of such files have none
    found = found or {name for name, key in keys.items() if key in column_names.TEXT}
    return tuple(sorted(found or columns))


def group_files(files: Iterable[FileColumns], named: Iterable[str]) -> Mapping[Signature, list[FileColumns]]:
    """Files by their signature, in the order in which they come."""
    groups: dict[Signature, list[FileColumns]] = {}
    wanted = tuple(named)
    for file in files:
        groups.setdefault(signature(file.columns, wanted), []).append(file)
    merged: dict[Signature, list[FileColumns]] = {}
    for columns, together in sorted(groups.items(), key=lambda group: -len(group[0])):
        wider = next((other for other in merged if _is_part(columns, other)), columns)
        merged.setdefault(wider, []).extend(together)
    return merged


def _is_part(columns: Signature, wider: Signature) -> bool:
    """Whether columns of no known meaning are some of others: rows of one layout may leave some out."""
    known = column_names.QUESTION | column_names.ANSWER | column_names.TURNS | column_names.TEXT
    return known.isdisjoint(map(column_key, wider)) and {*columns} <= {*wider}


def refuse_several(groups: Mapping[Signature, Sequence[FileColumns]], where: str) -> None:
    """Check that the files of a folder, pattern or archive have one layout.

    Raises:
        SourceError: with the layouts, and files of each.
    """
    if len(groups) < 2:
        return
    listed = [
        f"{len(files):,} with {', '.join(columns[:LISTED])} ({', '.join(one.file.name for one in files[:EXAMPLES])}"
        f"{' …' if len(files) > EXAMPLES else ''})"
        for columns, files in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]
    more = f"; {len(listed) - LAYOUTS} more" if len(listed) > LAYOUTS else ""
    split = f". {NEVER_PAIRED}" if _is_split(groups) else ""
    raise SourceError(
        f"the files have {len(groups)} different layouts: {'; '.join(listed[:LAYOUTS])}{more}{split}",
        where=where,
        hint="give each layout a source of its own, by a folder or a pattern: path: FOLDER/**/NAME*.json; "
        "`seodang init FOLDER` writes them",
    )


def answers_without_questions(columns: Iterable[str]) -> bool:
    """Whether columns hold answers, and no questions."""
    keys = set(map(column_key, columns))
    return bool(keys & column_names.ANSWER) and not keys & column_names.QUESTION


def _questions_without_answers(columns: Iterable[str]) -> bool:
    keys = set(map(column_key, columns))
    return bool(keys & column_names.QUESTION) and not keys & column_names.ANSWER


def _is_split(groups: Iterable[Signature]) -> bool:
    found = list(groups)
    return any(map(_questions_without_answers, found)) and any(map(answers_without_questions, found))
