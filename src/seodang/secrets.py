"""Secrets and personal paths in recipes and in what is about to be published: found, and reported masked.

Knows no recipe and no hub. Searches bytes, so that tokenizers and weights are searched like text.
"""

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seodang.errors import GateError

CHUNK = 1 << 24  # bytes of a file searched at a time
SHOWN = 20  # findings that one message lists
# No pattern starts with `\b` or a class: a literal start is what makes a search of 30 MB take milliseconds. What stands
# before a hit is looked at afterwards.
SECRETS = tuple(
    (what, re.compile(pattern))
    for what, pattern in (
        ("a Hugging Face token", rb"hf_[A-Za-z0-9]{20,}"),
        ("a Hugging Face organisation token", rb"api_org_[A-Za-z0-9]{20,}"),
        ("an API key", rb"sk-(?=[A-Za-z0-9_-]*[0-9])[A-Za-z0-9_-]{20,}"),
        ("an AWS access key", rb"A(?:KI|SI)A[0-9A-Z]{16}"),
        ("a GitHub token", rb"gh[pousr]_[A-Za-z0-9]{36,}"),
        ("a GitHub token", rb"github_pat_[A-Za-z0-9_]{22,}"),
        ("a GitLab token", rb"glpat-[A-Za-z0-9_-]{20,}"),
        ("an API key", rb"nvapi-[A-Za-z0-9_-]{40,}"),
        ("an API key", rb"gsk_[A-Za-z0-9]{40,}"),
        ("an API key", rb"xai-[A-Za-z0-9]{40,}"),
        ("a Google API key", rb"AIza[0-9A-Za-z_-]{35}"),
        ("a Slack token", rb"xox[abprs]-[0-9A-Za-z-]{10,}"),
        ("a JSON web token", rb"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}"),
        ("a private key", rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY"),
        ("a password in an address", rb"://[^\s/:@\"'<>]+:(?P<value>[^\s/@\"'<>]{3,})@"),
    )
)
# NAME: VALUE and NAME=VALUE, quoted or not, also within JSON within JSON
ASSIGNED = re.compile(
    rb"(?i)(?P<key>token|passw(?:or)?d|passphrase|\xeb\xb9\x84\xeb\xb0\x80\xeb\xb2\x88\xed\x98\xb8|secret"
    rb"|(?:api|access|private|secret)[_-]?key)\\?[\"']?\s*[:=]\s*\\?[\"']?(?P<value>[^\s\"',;(){}\[\]<>$\\]{8,})"
)
PATHS = (
    re.compile(rb"/(?:home|Users)/(?P<value>[^/\s\"'<>:,;)\]}\\`]+)"),
    re.compile(rb"(?i)[A-Z]:(?:\\\\?|/)Users(?:\\\\?|/)(?P<value>[^\\/\s\"'<>:,;)\]}`]+)"),
)
SPECIAL_TOKENS = re.compile(rb"(?i)(?:bos|eos|pad|unk|sep|cls|mask|[bei]o[iav]|image|audio|video|think|tool)_?$")
SECRET_NAME = re.compile(r"(?i)(TOKEN|SECRET|PASSW(OR)?D|PASSPHRASE|(API|ACCESS|SECRET|PRIVATE)_?KEY)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """One place that must not be published."""

    where: str  # file:line, or file:byte N where the file is no text
    what: str
    masked: str


def own_secrets(environment: Mapping[str, str]) -> dict[str, bytes]:
    """What → value of each environment variable that is named like a secret; plain words and numbers are none."""
    return {
        f"the value of {name}": value.encode()
        for name, value in environment.items()
        if SECRET_NAME.search(name) and len(value) >= 8 and not value.isalpha() and not value.isdigit()
    }


def leaks(name: str, content: Path | bytes, own: Mapping[str, bytes], *, paths: bool = True) -> list[Leak]:
    """Every secret and personal path in one file, in order; each value once.

    Args:
        name: what the file is called in messages.
        content: the file, or what would be in it.
        own: what → a secret of this machine, searched for as it is, in weights too.
        paths: whether personal paths count.
    """
    if isinstance(content, bytes):
        return _leaks(name, content, own, paths)
    if not content.stat().st_size:
        return []
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return _leaks(name, mapped, own, paths)


def refuse(found: Sequence[Leak], where: str) -> None:
    """Stop before anything leaves this machine.

    Raises:
        GateError: names every place, its values masked.
    """
    if not found:
        return
    lines = [f"\n  - {leak.where}: {leak.what} ({leak.masked})" for leak in found[:SHOWN]]
    if more := len(found) - SHOWN:
        lines += [f"\n  - and {more} more"] if more > 0 else []
    count = "1 secret or personal path" if len(found) == 1 else f"{len(found)} secrets or personal paths"
    raise GateError(
        f"{count} would be published; nothing was sent{''.join(lines)}",
        where=where,
        hint="take them out there; a token that has been written to a file should be revoked and made anew",
    )


def _leaks(name: str, data: bytes | mmap.mmap, own: Mapping[str, bytes], paths: bool) -> list[Leak]:
    is_text = b"\0" not in data[:8192]
    seen: list[tuple[int, int]] = []
    values: set[bytes] = set()
    found: list[tuple[int, Leak]] = []
    for what, start, end in _hits(name, data, own, paths):
        value = data[start:end]
        covered = any(start < other_end and other < end for other, other_end in seen)
        seen.append((start, end))
        if covered or value in values:
            continue
        values.add(value)
        place = f"{name}:{_lines_before(data, start) + 1}" if is_text else f"{name}:byte {start}"
        found.append((start, Leak(where=place, what=what, masked=_mask(value))))
    return [leak for _, leak in sorted(found, key=lambda item: item[0])]


def _hits(name: str, data: bytes | mmap.mmap, own: Mapping[str, bytes], paths: bool) -> Iterator[tuple[str, int, int]]:
    """(what, start, end): the surest first."""
    for what, value in own.items():
        if (start := data.find(value)) >= 0:
            yield what, start, start + len(value)
    text = data
    if name.endswith(".safetensors"):  # the header is JSON, what follows are numbers
        text = data[8 : 8 + int.from_bytes(data[:8], "little")][:CHUNK]
    shift = 8 if text is not data else 0
    for what, pattern in SECRETS:
        for match in pattern.finditer(text):
            group = "value" if "value" in pattern.groupindex else 0
            if group or not _is_word(text, match.start()):
                yield what, match.start(group) + shift, match.end(group) + shift
    for match in ASSIGNED.finditer(text):
        if _is_secret(text, match):
            yield f"a value for {_key(text, match)!r}", match.start("value") + shift, match.end("value") + shift
    for pattern in PATHS if paths else ():
        for match in pattern.finditer(text):
            if not _is_word(text, match.start()):
                yield "a personal path", match.start() + shift, match.end() + shift


def _is_word(text: bytes | mmap.mmap, start: int) -> bool:
    """Whether what begins at `start` is the middle of a word or of an address, such as example.com/home/page."""
    before = text[start - 1 : start]
    return before.isalnum() or before in (b"_", b".")


def _key(text: bytes | mmap.mmap, match: re.Match[bytes]) -> str:
    """The whole name that a value is given to: `hf_token`, not `token`."""
    before = re.search(rb"[A-Za-z0-9_-]*$", text[max(0, match.start() - 40) : match.start()])
    return ((before.group() if before else b"") + match["key"]).decode(errors="replace")


def _is_secret(text: bytes | mmap.mmap, match: re.Match[bytes]) -> bool:
    """Whether the value looks like one that was made up to be secret, not like prose, a number or a special token."""
    key, value = match["key"].lower(), match["value"]
    if key == b"token" and SPECIAL_TOKENS.search(text[max(0, match.start() - 20) : match.start()]):
        return False
    has_digit, has_letter = re.search(rb"\d", value), re.search(rb"[A-Za-z]", value)
    if key.endswith((b"token", b"key", b"secret")):
        return len(value) >= 12 and bool(has_digit and has_letter)
    return re.search(rb"[!-@\[-`{-~]", value.rstrip(b".!?:")) is not None  # letters alone are prose


def _lines_before(data: bytes | mmap.mmap, end: int) -> int:
    return sum(data[start : min(start + CHUNK, end)].count(b"\n") for start in range(0, end, CHUNK))


def _mask(value: bytes) -> str:
    """The first characters and the length: enough to find it, too little to use it."""
    text = value.decode(errors="replace")
    if is_path := re.match(r"(/home/|/Users/|(?i:[A-Z]:[\\/]+Users[\\/]+))", text):
        return f"{is_path[1]}{text[is_path.end()]}…"
    return f"{text[: min(4, len(text) // 6)]}…, {len(text)} characters"
