"""disk: what the disk does not allow is named as the user knows it."""

import errno

import pytest

from seodang.run.disk import explain


@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("runs/a/report.html", "runs/a/report.html"),
        ("runs/a/.model-x1y2", "runs/a"),  # a folder that would have become model/
        (None, "disk"),
    ],
)
def test_a_place_is_named_as_the_user_knows_it(file: str | None, where: str) -> None:
    """Of what is written under a hidden name at first, the folder that refuses it is named."""
    error = explain(PermissionError(errno.EACCES, "Permission denied", file))
    assert error
    assert (error.where, error.what) == (where, "permission denied")
