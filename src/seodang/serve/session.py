"""A conversation as a value, and the commands that change it. Knows no model and no terminal."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from pydantic import ValidationError

from seodang.errors import SeodangError, nearest
from seodang.recipe import Generate
from seodang.recipe_file import fault_lines, override

Turns = tuple[Mapping[str, str], ...]
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "help": "this list",
        "reset": "forget the conversation",
        "system": "TEXT: the system text from now on; without TEXT: none",
        "settings": "KEY=VALUE …: change how answers are generated (KEY=none unsets one); alone: show all",
        "again": "N: ask the last question N times, and count the different answers",
        "base": "talk to the run's base model",
        "tuned": "talk to the tuned model",
        "both": "ask the base, then the tuned model",
        "quit": "leave, as Ctrl-D does",
    }
)
ASK = "ask"
DEFAULT_TIMES, MAX_TIMES = 5, 1000  # how often /again asks
AGAIN_TEMPERATURE = 0.1  # where the settings name none; as recipes ask their repeated question


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One line of input: the name of a command, or ASK for a question."""

    name: str
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A conversation as it stands."""

    settings: Generate
    system: str | None = None
    models: tuple[str, ...] = ("tuned",)  # who is asked: base, tuned
    turns: Mapping[str, Turns] = field(default_factory=dict)  # model → what it was asked and answered itself

    def asked(self, model: str, question: str) -> Turns:
        """What the model is given: the system text, its conversation, and the question."""
        system = ({"role": "system", "content": self.system},) if self.system else ()
        return (*system, *self.turns.get(model, ()), {"role": "user", "content": question})

    def answered(self, model: str, question: str, answer: str) -> "Session":
        """The conversation with one more question and its answer."""
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        return replace(self, turns={**self.turns, model: (*self.turns.get(model, ()), *turns)})

    def forgotten(self) -> "Session":
        """The same settings without a conversation."""
        return replace(self, turns={})

    def without_oldest(self, model: str) -> "Session":
        """The conversation without the model's oldest question and answer."""
        return replace(self, turns={**self.turns, model: self.turns.get(model, ())[2:]})

    def last_question(self, model: str) -> "tuple[str, Session]":
        """The last question, and the conversation before it.

        Raises:
            SeodangError: nothing was asked yet.
        """
        turns = self.turns.get(model, ())
        if not turns:
            raise SeodangError(f"the {model} model was asked nothing yet", where="/again", hint="ask something first")
        return turns[-2]["content"], replace(self, turns={**self.turns, model: turns[:-2]})


def parse(line: str) -> Command | None:
    """What a line of input asks for; None for a blank one. After a blank, a line is a question though it begins with /.

    Raises:
        SeodangError: a command that there is not.
    """
    if not line.strip():
        return None
    if not line.startswith("/"):
        return Command(name=ASK, text=line.strip())
    name, _, text = line[1:].strip().partition(" ")
    if name not in COMMANDS:
        what = f"unknown command{nearest(f'/{name}', [f'/{known}' for known in COMMANDS])}"
        hint = "/help lists the commands; a question may begin with a blank"
        raise SeodangError(what, where=f"/{name}", hint=hint)
    return Command(name=name, text=text.strip())


def change(session: Session, command: Command) -> tuple[Session, str]:
    """The conversation after a command that asks nothing, and what to report about it.

    Raises:
        SeodangError: a setting that there is not, or a wrong value.
    """
    match command.name:
        case "reset":
            return session.forgotten(), "the conversation is forgotten"
        case "system":
            return replace(session, system=command.text or None), f"system text: {command.text or 'none'}"
        case "settings":
            session = replace(session, settings=_settings(session.settings, command.text.split()))
            return session, settings_text(session.settings)
        case "base" | "tuned":
            return replace(session, models=(command.name,)), f"the {command.name} model answers"
        case "both":
            return replace(session, models=("base", "tuned")), "the base answers first, then the tuned model"
        case _:
            return session, "\n".join(f"/{name:<9} {what}" for name, what in COMMANDS.items())


def times(text: str) -> int:
    """How often /again asks.

    Raises:
        SeodangError: no number from 2 to MAX_TIMES.
    """
    if not text:
        return DEFAULT_TIMES
    if not text.isdecimal() or not 2 <= int(text) <= MAX_TIMES:
        raise SeodangError(
            f"{text!r} is not a number from 2 to {MAX_TIMES}", where="/again", hint="for instance /again 5"
        )
    return int(text)


def settings_text(settings: Generate) -> str:
    """Settings as KEY=VALUE."""
    return "  ".join(f"{key}={'none' if value is None else value}" for key, value in settings)


def _settings(settings: Generate, pairs: list[str]) -> Generate:
    data = settings.model_dump()
    faults = [fault for pair in pairs if (fault := override(data, pair))]
    data = {key: None if value == "none" else value for key, value in data.items()}
    if data["temperature"] == 0:  # elsewhere it means greedy
        data["temperature"] = None
    try:
        changed = Generate.model_validate(data)
    except ValidationError as error:
        faults += fault_lines(error, data, Generate)
    if faults:
        raise SeodangError("; ".join(faults), where="/settings", hint="for instance /settings temperature=0.7 top_k=64")
    return changed
