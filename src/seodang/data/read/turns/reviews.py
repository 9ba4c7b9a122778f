"""Columns by which people and tools mark an answer as bad: preferences (KTO), reviews, deleted records."""

from collections.abc import Iterable, Mapping
from typing import Any

from seodang.data.read.column_names import column_key, words
from seodang.data.read.unusable import UnusableRowError

GOOD_IF_TRUE = words(
    "kto_tag kto_label is_chosen desirable is_desirable is_preferred is_correct accepted is_accepted approved "
    "is_approved use_yn 사용여부 사용_여부 채택여부 채택_여부 승인여부 승인_여부"
)
BAD_IF_TRUE = words(
    "is_rejected rejected was_cancelled discarded is_discarded deleted is_deleted del_yn 삭제여부 삭제_여부"
)
KTO_LABEL = "label"  # beside `prompt` and `completion` only: elsewhere it is a class
STATUS = words(
    "status review_status review_result annotation_status 검수상태 검수_상태 검수결과 검수_결과 검수 검토상태 "
    "검토_상태 검토결과 검토_결과 승인상태 승인_상태"
)
BAD_STATUS = words(
    "rejected reject discarded discard declined deleted draft 임시저장 반려 불합격 부적합 부적격 폐기 삭제 기각"
)
_FLAGS = {"true": True, "false": False, "y": True, "n": False, "yes": True, "no": False, "1": True, "0": False}


def review_columns(columns: Iterable[str], rows: Iterable[Mapping[str, Any]], *, is_kto: bool) -> tuple[str, ...]:
    """The columns that bear the name of such a mark; of yes and no, if they hold nothing else.

    Args:
        is_kto: the rows are a prompt, its completion and whether that is wanted.
    """
    sample = list(rows)

    def holds(column: str) -> bool:
        key = column_key(column)
        if key in STATUS:
            return True
        if key == KTO_LABEL and is_kto:
            values = [row.get(column) for row in sample]
            return all(_word(value) in ("true", "false") for value in values if value not in (None, ""))
        return key in GOOD_IF_TRUE | BAD_IF_TRUE and all(
            _word(value) in _FLAGS for row in sample if (value := row.get(column)) not in (None, "")
        )

    return tuple(column for column in columns if holds(column))


def refuse_bad(columns: Iterable[str], fields: Mapping[str, Any]) -> None:
    """Check that no column marks a row's answer as bad.

    Raises:
        UnusableRowError: one does.
    """
    for column in columns:
        key, word = column_key(column), _word(fields.get(column))
        is_bad = word in BAD_STATUS if key in STATUS else _FLAGS.get(word) is (key in BAD_IF_TRUE)
        if is_bad:
            raise UnusableRowError(
                f"marked as a bad answer ({column}: {word})", hint=f"take the column {column} out to keep such rows"
            )


def _word(value: Any) -> str:
    return value.strip().casefold() if isinstance(value, str) else ""
