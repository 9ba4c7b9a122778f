"""Finds the chat template, and proves that the tokenizer fits it before anything else is done. Renders no data."""

import copy
import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seodang import recipe
from seodang.data.template.headers import ORIGIN, from_headers
from seodang.data.template.jinja import PINNED_DATE, compile_template, fixed, pinned, variables_of, with_tools
from seodang.data.template.limits import limited
from seodang.data.template.next_turn import with_last_end
from seodang.data.template.probe import OTHER_HINT, Probe, control_tokens, probe
from seodang.errors import TemplateError, first_line, nearest
from seodang.user_paths import expanded, is_there

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN = "the tokenizer's own"
MOST_BYTES = 1_000_000  # of a template file
TEMPLATE_FILES = (".jinja", ".jinja2", ".j2")
BUILT_IN = (  # in the order a base tokenizer is tried
    *("gemma", "llama3", "qwen3", "chatml"),
    *("exaone4", "exaone3", "solar_open", "plain"),
)
_ALWAYS_BOS = ("gemma", "llama3")  # their makers write it; the others only where the tokenizer adds it by itself
_PADS = (  # tokens that no text uses, best first
    r"<pad>|<\|pad\|>|\[PAD\]",
    r"<\|finetune_right_pad_id\|>",
    r"<\|reserved_special_token_\d+\|>|<unused\d+>|<reserved_\d+>|\[control_\d+\]",
    r"<\|endoftext\|>",
    r"<\|vision_pad\|>|<\|fim_pad\|>",
    r"<unk>",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """A chat template together with what is known about it."""

    text: str  # Jinja source, as rendered for training and as saved with the model
    origin: str  # for people: "the tokenizer's own", "built-in gemma", "borrowed from X"
    turn_end: str
    turn_end_id: int
    header: str  # opens an assistant turn, without an empty think block; blank where the user's turn closes with it
    markers: tuple[tuple[str, int], ...]  # control tokens around turns, and their ids
    call_end: str = ""  # of turns that end in a tool call, where it is another than `turn_end`
    added: tuple[str, ...] = ()  # markers that `apply_template` adds as control tokens
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # more template variables, for training and serving alike

    @property
    def call_end_id(self) -> int | None:
        """The id of `call_end`, if there is one."""
        return dict(self.markers).get(self.call_end)

    @property
    def is_new(self) -> bool:
        """Whether the base may never have been trained on its markers: it came without this template."""
        return not self.origin.startswith(OWN)  # what was changed in it is named behind that


def find_template(
    tokenizer: "PreTrainedTokenizerBase",
    spec: recipe.Template,
    *,
    num_embeddings: int,
    load_tokenizer: "Callable[[str], PreTrainedTokenizerBase]",
    system: str | None = None,
    thinking: bool = False,
) -> ChatTemplate:
    """The template that the recipe asks for, verified against the base's tokenizer.

    Args:
        tokenizer: the base's, as loaded.
        spec: the recipe's `template`; without `borrow`: the tokenizer's own, else the first built-in that fits.
        num_embeddings: rows of the base's embedding.
        load_tokenizer: folder or hub id → tokenizer; called only to borrow from one.
        system: the recipe's system text, which the template must then render.
        thinking: the data holds thoughts; otherwise templates that know `enable_thinking` are used with it off.

    Raises:
        TemplateError: none fits; says which marker or turn is at fault.
    """
    arguments = partial(
        _find, num_embeddings=num_embeddings, load_tokenizer=load_tokenizer, system=system, thinking=thinking
    )
    try:
        return arguments(tokenizer, spec)
    except TemplateError as error:
        if error.where == "system" or not (own_text(tokenizer) and (spec.borrow or spec.headers)):
            raise
        hint = "; or ".join(filter(None, ["remove `template:`: this model has its own", error.hint]))
        raise TemplateError(error.what, where=error.where, hint=hint) from None


def check_name(borrow: str) -> None:
    """Refuse what can be neither a built-in template, a file, a folder nor a hub id.

    Raises:
        TemplateError: names the nearest built-in template.
    """
    if borrow in BUILT_IN or "/" in borrow or borrow.endswith(TEMPLATE_FILES) or is_there(Path(borrow)):
        return
    what = f"no built-in template or folder {borrow[:100]!r}{nearest(borrow, BUILT_IN)}"
    hint = f"give a folder, hub id, .jinja file, or one of: {', '.join(BUILT_IN)}"
    raise TemplateError(what, where="template.borrow", hint=hint)


def _find(
    tokenizer: "PreTrainedTokenizerBase",
    spec: recipe.Template,
    *,
    num_embeddings: int,
    load_tokenizer: "Callable[[str], PreTrainedTokenizerBase]",
    system: str | None,
    thinking: bool,
) -> ChatTemplate:
    _check_system(tokenizer, system or "")
    verified = partial(
        _verified, tokenizer, spec.add_tokens, num_embeddings=num_embeddings, system=system, thinking=thinking
    )
    borrow = spec.borrow
    if spec.headers is not None:
        return verified(_with_bos(tokenizer, from_headers(spec.headers)), ORIGIN, donor=tokenizer)
    if borrow is None and (own := own_text(tokenizer)):
        return verified(own, OWN, donor=tokenizer)
    if borrow is None:
        return _first_built_in(lambda name: verified(_built_in(tokenizer, name), f"built-in {name}"))
    if borrow in BUILT_IN:
        return verified(_built_in(tokenizer, borrow), f"built-in {borrow}")
    if borrow.endswith(TEMPLATE_FILES):
        return verified(_read(borrow), f"borrowed from {borrow}")
    check_name(borrow)
    donor = load_tokenizer(borrow)
    borrowed = own_text(donor)
    if not borrowed:
        raise TemplateError(
            f"the tokenizer of {borrow} has no chat template",
            where="template.borrow",
            hint="borrow from an instruct model",
        )
    return verified(borrowed, f"borrowed from {borrow}", donor=donor)


def donor_of(borrow: str) -> str | None:
    """The folder or hub id whose tokenizer brings the template; None: a built-in template, or a file, which is there.

    Raises:
        TemplateError: no such file, or it can be none of these.
    """
    if borrow in BUILT_IN:
        return None
    if borrow.endswith(TEMPLATE_FILES):
        _read(borrow)
        return None
    check_name(borrow)
    return borrow


def apply_template(tokenizer: "PreTrainedTokenizerBase", template: ChatTemplate) -> None:
    """Make the tokenizer what is trained and saved: template, turn end as `eos_token`, a pad token that is not it.

    Raises:
        TemplateError: no token of the vocabulary can serve for padding.
    """
    if template.added:
        tokenizer.add_tokens(list(template.added), special_tokens=True)
    wrong = [name for name, token in template.markers if tokenizer.convert_tokens_to_ids(name) != token]
    if wrong:
        raise TemplateError(
            f"this is not the tokenizer the template was verified with: {', '.join(wrong)}", where=template.origin
        )
    pad = _pad_token(tokenizer, template)
    tokenizer.chat_template = template.text
    tokenizer.eos_token = template.turn_end
    tokenizer.pad_token = pad


def _verified(
    tokenizer: "PreTrainedTokenizerBase",
    add_tokens: bool,
    source: str,
    origin: str,
    *,
    num_embeddings: int,
    system: str | None,
    thinking: bool,
    donor: "PreTrainedTokenizerBase | None" = None,
) -> ChatTemplate:
    def look() -> tuple[frozenset[str], str, Probe]:
        compile_template(source, where=origin)  # so that a broken line is reported with its own number
        names = variables_of(source)
        theirs = _variables(donor or tokenizer, names, thinking=thinking)
        text = with_last_end(pinned(source, thinking=thinking), theirs, partial(control_tokens, donor=donor))
        return names, text, probe(text, theirs, where=origin, donor=donor, system=system, thinking=thinking)

    names, text, probed = look() if origin.startswith("built-in") else limited(look, where=origin)
    kwargs = _settings(names, thinking=thinking)
    theirs = _variables(donor or tokenizer, names, thinking=thinking)
    ours = {**tokenizer.special_tokens_map, "eos_token": probed.turn_end}  # as `apply_template` leaves the tokenizer
    used = [name for name in ("bos_token", "eos_token") if name in names and theirs.get(name) != ours.get(name)]
    missing = _missing(tokenizer, probed, origin, add_tokens)
    grown = tokenizer
    if missing:
        grown = copy.deepcopy(tokenizer)
        grown.add_tokens(list(missing), special_tokens=True)
    ids = {name: int(grown.convert_tokens_to_ids(name)) for name in probed.markers}
    _check_ids({name: ids[name] for name in probed.markers if ids[name] < len(tokenizer)}, num_embeddings, origin)
    _check_boundary(grown, probed, origin)
    return ChatTemplate(
        text=fixed(text, {name: theirs.get(name, "") for name in used}),
        origin=", ".join([origin, *_changed(names, source, text)]),
        turn_end=probed.turn_end,
        turn_end_id=ids[probed.turn_end],
        header=probed.header,
        call_end=probed.call_end,
        markers=tuple(ids.items()),
        added=missing,
        kwargs=kwargs,
    )


def _changed(names: frozenset[str], source: str, text: str) -> list[str]:
    """What was changed in a template, for people."""
    changed = [f"its date fixed at {PINNED_DATE.isoformat()}"] if "strftime_now" in names else []
    return changed if text.endswith(source) else [*changed, "its last turn ended as the earlier ones are"]


def _settings(names: frozenset[str], *, thinking: bool) -> dict[str, Any]:
    """Variables that a template is rendered with for training and serving alike."""
    return {"enable_thinking": False} if "enable_thinking" in names and not thinking else {}


def _variables(donor: "PreTrainedTokenizerBase", names: frozenset[str], *, thinking: bool) -> dict[str, Any]:
    return {**donor.special_tokens_map, **_settings(names, thinking=thinking)}


def _check_system(tokenizer: "PreTrainedTokenizerBase", system: str) -> None:
    """The system text stands in every conversation: a control token in it would end or forge a turn in each."""
    special = (str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special)
    if found := next((name for name in special if name in system and "think" not in name), None):
        raise TemplateError(
            f"control token in the text: {found}", where="system", hint="take it out of the system text"
        )


def _missing(tokenizer: "PreTrainedTokenizerBase", probed: Probe, origin: str, add_tokens: bool) -> tuple[str, ...]:
    """Markers that are not cut out of a text as one token.

    An entry of the vocabulary that is merely not known as a control token has a trained embedding: it only needs to be
    declared. Others need permission, and training.
    """
    pieces = {name: tokenizer(name, add_special_tokens=False)["input_ids"] for name in probed.markers}
    split = {name: ids for name, ids in pieces.items() if tokenizer.convert_ids_to_tokens(ids) != [name]}
    vocabulary = tokenizer.get_vocab() if split else {}
    unknown = [f"{name} ({len(ids)} tokens)" for name, ids in split.items() if name not in vocabulary]
    if unknown and not add_tokens:
        raise TemplateError(
            f"the base's vocabulary does not have {', '.join(unknown)}",
            where=origin,
            hint=f"{OTHER_HINT}, or add and train them with `template: {{add_tokens: true}}`",
        )
    return tuple(split)


def _check_ids(ids: Mapping[str, int], num_embeddings: int, origin: str) -> None:
    beyond = [f"{name} (id {token})" for name, token in ids.items() if token >= num_embeddings]
    if beyond:
        raise TemplateError(
            f"{', '.join(beyond)} lies beyond the model's {num_embeddings} embedding rows",
            where=origin,
            hint=f"use the tokenizer that belongs to this model, or {OTHER_HINT}",
        )


def _check_boundary(tokenizer: "PreTrainedTokenizerBase", probed: Probe, origin: str) -> None:
    """The served prompt's ids must begin the trained ids: no token may join the header with the answer."""
    prompt = tokenizer(probed.prompt, add_special_tokens=False)["input_ids"]
    full = tokenizer(probed.text, add_special_tokens=False)["input_ids"]
    if full[: len(prompt)] != prompt:
        header = probed.header or probed.prompt[-20:]
        raise TemplateError(
            f"this tokenizer joins the end of {header!r} with the answer's first characters",
            where=origin,
            hint=f"let the header end in a control token or line break, or {OTHER_HINT}",
        )


def _first_built_in(verified: Callable[[str], ChatTemplate]) -> ChatTemplate:
    faults = []
    for name in BUILT_IN:
        try:
            return verified(name)
        except TemplateError as error:
            faults.append(first_line(error))
    raise TemplateError(
        "the tokenizer has no chat template and no built-in one fits:" + "".join(f"\n  - {fault}" for fault in faults),
        where="template",
        hint="borrow from an instruct model of the same family, or set `template: {borrow: chatml, add_tokens: true}`",
    )


def _built_in(tokenizer: "PreTrainedTokenizerBase", name: str) -> str:
    text = files("seodang.templates").joinpath(f"{name}.jinja").read_text(encoding="utf-8")
    return text if name in _ALWAYS_BOS else _with_bos(tokenizer, text)


def _with_bos(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """A template that writes BOS only where the tokenizer puts it in front of plain text, too."""
    return text if adds_bos(tokenizer) else fixed(text, {"bos_token": ""})


def adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer puts its BOS in front of plain text by itself."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def own_text(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The tokenizer's own template; several by name as the one text that writes what transformers chooses of them."""
    found = tokenizer.chat_template
    if not isinstance(found, dict):
        return str(found) if found else None
    text = found.get("default") or next(iter(found.values()), None)
    for_tools = found.get("tool_use")
    return text if not text or not for_tools or for_tools == text else with_tools(for_tools, text)


def _read(path: str) -> str:
    try:
        file = expanded(path)
        if file.exists() and not file.is_file():  # a pipe would be waited for without end
            raise OSError(errno.EINVAL, "not a file")
        if file.stat().st_size > MOST_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MOST_BYTES:,} bytes, so not a chat template")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        what = what if isinstance(error, OSError | UnicodeDecodeError) else str(error)
        raise TemplateError(
            f"{path}: {what}",
            where="template.borrow",
            hint=f"give a readable .jinja file or one of: {', '.join(BUILT_IN)}",
        ) from None


def _pad_token(tokenizer: "PreTrainedTokenizerBase", template: ChatTemplate) -> str:
    """The tokenizer's own pad token unless it ends something, else a token of the vocabulary that no text uses."""
    own, end_of_text = tokenizer.pad_token, tokenizer.eos_token
    if own is not None and own not in (template.turn_end, end_of_text):
        return str(own)
    taken = {end_of_text, tokenizer.bos_token, *(name for name, _ in template.markers)}
    names = [str(token.content) for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    free = [name for pattern in _PADS for name in names if re.fullmatch(pattern, name) and name not in taken]
    if end_of_text is not None and end_of_text != template.turn_end:
        free.append(str(end_of_text))  # the base's own end of text: it ends no turn
    if not free:
        raise TemplateError(
            f"the vocabulary has no token for padding besides {template.turn_end}, which must stay supervised",
            where="tokenizer",
            hint="give the base's tokenizer a pad token",
        )
    return free[0]
