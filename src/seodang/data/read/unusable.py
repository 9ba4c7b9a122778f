"""Why a row cannot be used. Knows no row."""

CHECK_COLUMNS = "check that the recipe names the right columns (`question:`, `answer:`, `messages:`, `text:`)"


class UnusableRowError(Exception):
    """A row that cannot be trained on or measured.

    Args:
        reason: what the row is counted under; holds no text of the row, so that equal faults are counted together.
        hint: how such rows can be fixed.
        detail: what of this row, for the list of dropped rows.
    """

    def __init__(self, reason: str, *, hint: str = CHECK_COLUMNS, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.hint, self.detail = reason, hint, detail

    @property
    def note(self) -> str:
        """The reason with the detail."""
        return f"{self.reason}: {self.detail[:40]!r}" if self.detail else self.reason
