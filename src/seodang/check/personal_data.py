"""Signs of personal data in texts, counted and never shown. A sign proves nothing: some long numbers are nobody's."""

import re
from collections.abc import Iterable

PERSONAL = (
    (
        "a resident registration number",
        re.compile(r"(?<!\d)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\s?[-–]\s?[1-8]\d{6}(?!\d)"),
    ),
    ("a social security number", re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")),
    (
        "a mobile phone number",
        re.compile(r"(?<!\d)(?:\+?82[-. ]?)?0?1[016789][-. ]?\d{3,4}[-. ]\d{4}(?!\d)|(?<!\d)010\d{8}(?!\d)"),
    ),
    ("an e-mail address", re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")),
    ("a payment card number", re.compile(r"(?<![\d-])[3-6]\d{3}[- ]\d{4}[- ]\d{4}[- ]\d{4}(?![\d-])")),
    (
        "a chart or patient number",
        re.compile(r"(?:차트|등록|환자|병록)\s*번호\s*[:：#]?\s*\d{5,}|\b(?:MRN|chart no\.?)\s*[:#]?\s*\d{5,}", re.I),
    ),
)


def personal_data(texts: Iterable[str]) -> dict[str, int]:
    """What was found → in how many of the texts."""
    found: dict[str, int] = {}
    for text in texts:
        for what, pattern in PERSONAL:
            if pattern.search(text):
                found[what] = found.get(what, 0) + 1
    return found
