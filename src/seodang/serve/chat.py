"""A conversation in the terminal, streamed; or, where stdin is no terminal, each line a question of its own."""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from seodang.errors import RunError, SeodangError, SourceError
from seodang.serve.chat_model import ChatModel, load_chat_model
from seodang.serve.session import AGAIN_TEMPERATURE, ASK, Command, Session, change, parse, settings_text, times
from seodang.show.formatting import plural, visible
from seodang.show.terminal.console import get_console, show_error
from seodang.show.terminal.progress import watching

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

_PROMPT = "› "
_ChatModelOf = Callable[[str], ChatModel]  # "base" or "tuned" → the model, loaded when it is first asked


def chat(model: str | Path, *, base: bool = False, both: bool = False, trust_remote_code: bool = False) -> None:
    """Talk to a model until the input ends.

    Typed lines are one conversation; where the input is no terminal, each line is a question of its own.

    Args:
        model: a run's folder; or an instruct model: folder, hub id or package.
        base: begin with the run's base model, under the tuned one's template.
        both: ask the base and the tuned model in turn.
        trust_remote_code: run Python code that comes with the model; a run's recipe does not give that permission.

    Raises:
        SeodangError: the model cannot be talked to; where the input is no terminal, a command that fails, or, once
            all others are answered, a question that failed or an unknown command.
    """
    names = ("base", "tuned") if both else ("base",) if base else ("tuned",)
    notes = get_console(stderr=True)

    @functools.cache
    def chat_model_of(name: str) -> ChatModel:
        with notes.status("loading the model …"):
            return load_chat_model(model, base=name == "base", trust_remote_code=trust_remote_code)

    chat_model = [chat_model_of(name) for name in names][-1]
    session = Session(settings=chat_model.settings, system=chat_model.system, models=names)
    if not sys.stdin.isatty():
        _answer_lines(session, chat_model_of, notes)
        return
    is_terminal = sys.stdout.isatty()
    if is_terminal:
        _greet(notes, session, str(model))
    _talk(session, _typed() if is_terminal else _piped(), chat_model_of, notes)


def _talk(session: Session, lines: Iterator[str], chat_model_of: _ChatModelOf, notes: Console) -> None:
    """One conversation, whose errors end nothing."""
    for line in _joined(lines):
        try:
            command = parse(line)
            if command and command.name == "quit":
                return
            if command:
                session = _do(session, command, chat_model_of, notes)
        except SeodangError as error:
            show_error(error)
        except KeyboardInterrupt:
            notes.print(Text("interrupted", style="yellow"))


def _answer_lines(session: Session, chat_model_of: _ChatModelOf, notes: Console) -> None:
    """Answer each line of stdin by itself: one that fails is reported and does not end the others.

    An unknown command counts as a question, as one that begins with / may be meant; so does /again.

    Raises:
        SeodangError: a command that fails: the questions after it were to follow it. At the end: the error of the
            last question, or, if an earlier one failed, how many did.
    """
    questions = failures = 0
    waiting: SeodangError | None = None  # the newest error; what is raised in the end is not shown here
    for line in filter(str.strip, _joined(_piped())):
        if waiting:
            show_error(waiting)
            waiting = None
        command = None
        try:
            command = parse(line)
            if command and command.name == "quit":
                break
            if command and command.name == ASK:
                session = session.forgotten()
            questions += command is not None and command.name in (ASK, "again")
            session = _do(session, command, chat_model_of, notes) if command else session
        except SeodangError as error:
            if command and command.name not in (ASK, "again"):
                raise
            questions += command is None
            notes.print(Text(f"question {questions} was not answered", style="yellow"))
            waiting, failures = error, failures + 1
    if waiting:
        raise waiting
    if failures:
        raise RunError(
            f"{failures} of {plural(questions, 'question')} failed", where="stdin", hint="see their errors above"
        )


def _do(session: Session, command: Command, chat_model_of: _ChatModelOf, notes: Console) -> Session:
    """Carry out one line of input; the conversation after it."""
    if command.name == ASK:
        for name in session.models:
            chat_model = chat_model_of(name)
            session, prompt = _fit(session, name, command.text, chat_model, notes)
            answer = _answer(session, name, prompt, chat_model, notes)
            session = session.answered(name, command.text, answer) if answer.strip() else session
        return session
    if command.name == "again":
        for name in session.models:
            _ask_again(session, name, times(command.text), chat_model_of(name), notes)
        return session
    changed, what = change(session, command)
    for name in changed.models:
        chat_model_of(name)  # before it is chosen: a model without a base stays as it is
    notes.print(Text(visible(what), style="dim"))
    return changed


def _fit(
    session: Session, name: str, question: str, chat_model: ChatModel, notes: Console
) -> tuple[Session, list[int]]:
    """The conversation without as many of its oldest turns as its prompt and the answer need, and that prompt."""
    context, dropped = chat_model.context, 0
    prompt = chat_model.prompt(session.asked(name, question))
    while context and session.turns.get(name) and len(prompt) + session.settings.max_new_tokens > context:
        session, dropped = session.without_oldest(name), dropped + 1
        prompt = chat_model.prompt(session.asked(name, question))
    if dropped:
        what = "question and its answer" if dropped == 1 else f"{dropped} questions and their answers"
        notes.print(Text(f"the context of {context:,} tokens is full: the oldest {what} are left out", style="yellow"))
    return session, prompt


def _answer(session: Session, name: str, prompt: Sequence[int], chat_model: ChatModel, notes: Console) -> str:
    """Show an answer as it comes; what came of it, though Ctrl-C ended it."""
    out = get_console()
    text = ""
    pieces = chat_model.stream(prompt, session.settings)
    _label(out, session, name)
    try:
        while True:
            piece = next(pieces)
            text += piece
            out.print(Text(visible(piece)), end="", soft_wrap=True)
    except StopIteration as end:
        cut = "" if end.value.stopped else f"cut off at {end.value.new_tokens:,} tokens: /settings max_new_tokens=…"
    except KeyboardInterrupt:
        pieces.close()
        if not sys.stdin.isatty():  # nobody types the next question
            raise
        cut = "stopped"
    out.print()
    if cut:
        notes.print(Text(cut, style="yellow"))
    return text


def _ask_again(session: Session, name: str, number: int, chat_model: ChatModel, notes: Console) -> None:
    """Show the different answers to the last question, the most frequent first. The conversation stays as it is."""
    question, before = session.last_question(name)
    _, prompt = _fit(before, name, question, chat_model, notes)
    settings = session.settings
    if settings.temperature is None:
        settings = settings.model_copy(update={"temperature": AGAIN_TEMPERATURE})
        notes.print(Text(f"greedy answers are all the same: asked at temperature {AGAIN_TEMPERATURE}", style="dim"))
    with watching("answers", number) as advance:
        answers = chat_model.answer([prompt] * number, settings, on_progress=advance)
    out = get_console()
    _label(out, session, name)
    different = Counter(answer.text.strip() for answer in answers)
    for text, count in different.most_common():
        out.print(Text(f"{count}× ", style="bold").append(visible(text), style="not bold"), soft_wrap=True)
    ended = sum(answer.stopped for answer in answers)
    notes.print(Text(f"different answers: {len(different)} of {number}; ended by themselves: {ended}", style="dim"))


def _label(out: Console, session: Session, name: str) -> None:
    if len(session.models) > 1:
        out.print(Text(name, style="bold"))


def _greet(notes: Console, session: Session, model: str) -> None:
    what = [model, f"system text: {session.system}"] if session.system else [model]
    lines = (*what, settings_text(session.settings), "/help lists the commands; Alt-Enter or \\ at the end: a new line")
    notes.print(Text(visible("\n".join(lines)), style="dim"))


def _typed() -> Iterator[str]:
    """Lines typed in a terminal, until Ctrl-D; Ctrl-C empties the line."""
    read = _reader()
    while True:
        try:
            yield read(_PROMPT)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _reader() -> Callable[[str], str]:
    """Prompt → line; without prompt_toolkit (the extra `chat`) there is no history and no Alt-Enter."""
    try:
        from prompt_toolkit import PromptSession
    except ImportError:
        return input
    session: PromptSession[str] = PromptSession(multiline=True, key_bindings=_keys(), prompt_continuation="  ")
    return session.prompt


def _keys() -> "KeyBindings":
    """Enter sends; Alt-Enter, or Enter after a backslash, begins a new line. What is pasted keeps its lines."""
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    writing = has_focus(DEFAULT_BUFFER)  # and not searching the lines typed before

    @keys.add("enter", filter=writing)
    def _send(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=writing)
    def _new_line(event: "KeyPressEvent") -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


def _piped() -> Iterator[str]:
    """Lines of stdin.

    Raises:
        SourceError: they are no text in the encoding that Python expects.
    """
    try:
        for line in sys.stdin:
            line.encode()  # what could not be decoded may hide in surrogates
            yield line.removesuffix("\n").removesuffix("\r")
    except UnicodeError:
        hint = "send UTF-8 text, and set PYTHONUTF8=1 where that is not the system's encoding"
        raise SourceError(f"is not valid {sys.stdin.encoding} text", where="stdin", hint=hint) from None


def _joined(lines: Iterator[str]) -> Iterator[str]:
    """A backslash at the end of a line joins the next one."""
    begun = ""
    for line in lines:
        begun += line
        if begun.endswith("\\"):
            begun = begun[:-1] + "\n"
        else:
            yield begun
            begun = ""
    if begun:
        yield begun
