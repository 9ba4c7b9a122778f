"""seodang chat: the commands as values, a piped conversation, and a real terminal."""

import io
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from seodang.errors import ModelError, RunError, SeodangError, SourceError, TemplateError
from seodang.recipe import Generate
from seodang.run.folder import Run
from seodang.serve.chat import _fit, _keys, _reader, chat
from seodang.serve.chat_model import load_chat_model
from seodang.serve.session import ASK, COMMANDS, Command, Session, change, parse, times
from seodang.show.formatting import visible
from tiny_run import make_run

SESSION = Session(settings=Generate())
NO_PASTE = "\x1b[?2004l"  # what prompt_toolkit sends when a line is done


@pytest.fixture(scope="module")
def run(tiny_folder: Path, _tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a system text; its base and its tuned model are two random ones."""
    return make_run(tmp_path_factory.mktemp("runs") / "demo", tiny_folder, _tokenizer, system="짧게 답하세요.")


def piped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, text: str, **how: bool
) -> tuple[str, str]:
    """(stdout, stderr) of a chat that is given `text` on stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
    chat(model, **how)
    printed = capsys.readouterr()
    return printed.out, printed.err


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("머리가 아파요. ", Command(name=ASK, text="머리가 아파요.")),
        ("두 줄\n입니다", Command(name=ASK, text="두 줄\n입니다")),
        (" /etc/passwd 는 뭐예요?", Command(name=ASK, text="/etc/passwd 는 뭐예요?")),
        ("/reset", Command(name="reset")),
        ("/system  짧게 답하세요. ", Command(name="system", text="짧게 답하세요.")),
        ("/again 3", Command(name="again", text="3")),
        ("  ", None),
        ("", None),
    ],
)
def test_a_line_is_a_question_or_a_command(line: str, command: Command | None) -> None:
    """What begins with / is a command, all else a question; a blank line is nothing."""
    assert parse(line) == command


def test_unknown_commands() -> None:
    """A command that there is not names the nearest one."""
    with pytest.raises(SeodangError, match="did you mean '/reset'"):
        parse("/resett")
    with pytest.raises(SeodangError, match="/help"):
        parse("/")


def test_each_model_has_its_own_conversation() -> None:
    """A model is given the system text, what it was asked and answered itself, and the question."""
    session = (
        Session(settings=Generate(), system="짧게.").answered("base", "하나?", "둘.").answered("tuned", "셋?", "넷.")
    )
    assert [turn["content"] for turn in session.asked("base", "다섯?")] == ["짧게.", "하나?", "둘.", "다섯?"]
    assert [turn["role"] for turn in session.asked("tuned", "다섯?")] == ["system", "user", "assistant", "user"]
    question, before = session.last_question("tuned")
    assert (question, before.turns["tuned"], before.turns["base"]) == ("셋?", (), session.turns["base"])
    with pytest.raises(SeodangError, match="asked nothing"):
        SESSION.last_question("tuned")


def test_commands_change_the_talk() -> None:
    """Each command gives a new conversation, and leaves the old one as it was."""
    session = SESSION.answered("tuned", "하나?", "둘.")
    assert change(session, Command(name="reset"))[0] == SESSION
    assert change(session, Command(name="system", text="짧게."))[0].system == "짧게."
    assert change(session, Command(name="system"))[0].system is None
    assert change(session, Command(name="both"))[0].models == ("base", "tuned")
    assert change(session, Command(name="base"))[0].models == ("base",)
    assert change(session, Command(name="tuned"))[0] == session
    same, what = change(session, Command(name="help"))
    assert same == session
    assert all(f"/{name}" in what for name in COMMANDS)


def test_settings() -> None:
    """Settings are checked as a recipe's are; temperature 0 and none mean none."""
    warm, what = change(SESSION, Command(name="settings", text="temperature=0.7 top_k=64"))
    assert (warm.settings.temperature, warm.settings.top_k) == (0.7, 64)
    assert "temperature=0.7" in what
    for text in ("temperature=0", "temperature=none"):
        assert change(warm, Command(name="settings", text=text))[0].settings.temperature is None
    assert change(warm, Command(name="settings"))[0] == warm
    for text, expected in (
        ("temprature=1", "did you mean 'temperature'"),
        ("top_p=7", "top_p: input should be less than or equal to 1, found 7"),
        ("max_new_tokens", "expected KEY=VALUE"),
    ):
        with pytest.raises(SeodangError, match=expected):
            change(SESSION, Command(name="settings", text=text))


def test_times() -> None:
    """/again takes a number from 2 on, or none."""
    assert (times(""), times("12")) == (5, 12)
    for text in ("1", "many", "-3", "9999999"):
        with pytest.raises(SeodangError, match="not a number"):
            times(text)


def test_keys() -> None:
    """Enter sends; Alt-Enter and Enter after a backslash begin a new line; pasted lines stay together."""
    for typed, expected in (
        ("안녕하세요\r", "안녕하세요"),
        ("안녕\\\r하세요\r", "안녕\n하세요"),
        ("안녕\x1b\r하세요\r", "안녕\n하세요"),
        ("\x1b[200~안녕\n하세요\x1b[201~\r", "안녕\n하세요"),
    ):
        with create_pipe_input() as pipe:
            pipe.send_text(typed)
            session: PromptSession[str] = PromptSession(
                multiline=True, key_bindings=_keys(), input=pipe, output=DummyOutput()
            )
            assert session.prompt("") == expected


def test_without_prompt_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `chat` makes typing pleasant; without it Python's own input serves."""
    assert _reader() is not input
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    assert _reader() is input


def test_piped_questions(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is a question of its own, without those before it; stdout holds the answers and nothing else."""
    chat_model = load_chat_model(run.folder)
    session, expected = Session(settings=chat_model.settings, system="짧게 답하세요."), []
    for question in ("감기에 걸렸어요.\n열도 나요.", "물"):
        (answer,) = chat_model.answer([chat_model.prompt(session.asked("tuned", question))], chat_model.settings)
        expected.append(visible(answer.text))
    out, err = piped(monkeypatch, capsys, run.folder, "감기에 걸렸어요.\\\n열도 나요.\n\n물\n")
    assert out == "".join(f"{text}\n" for text in expected)
    assert "cut off at 12 tokens" in err


def test_a_piped_question_that_fails_does_not_end_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever stands between them, all other questions get the answer that they get alone; the exit code shows it."""
    alone = {text: piped(monkeypatch, capsys, run.folder, f"{text}\n")[0] for text in ("물", "감기")}
    long = "물 " * 3000
    with pytest.raises(RunError, match="1 of 3 questions failed"):
        piped(monkeypatch, capsys, run.folder, f"물\n{long}\n감기\n")
    printed = capsys.readouterr()
    assert printed.out == alone["물"] + alone["감기"]
    assert printed.err.index("question 2 was not answered") < printed.err.index("exceed the model's")
    with pytest.raises(ModelError, match="exceed"):  # the last error is raised, not printed twice
        piped(monkeypatch, capsys, run.folder, f"{long}\n물\n{long}\n")
    printed = capsys.readouterr()
    assert printed.out == alone["물"]
    assert printed.err.count("exceed the model's") == 1
    with pytest.raises(SeodangError, match="did you mean 'temperature'"):
        piped(monkeypatch, capsys, run.folder, "/settings temprature=1\n물\n")
    assert capsys.readouterr().out == ""  # it would have been answered under other settings than were wanted


def test_an_unknown_piped_command_does_not_end_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a question that begins with /: it is named where it stands, all others are answered, the end fails."""
    alone = {text: piped(monkeypatch, capsys, run.folder, f"{text}\n")[0] for text in ("물", "감기")}
    with pytest.raises(RunError, match="1 of 3 questions failed"):
        piped(monkeypatch, capsys, run.folder, "물\n/etc/hosts 는 뭐예요?\n\n감기\n")
    printed = capsys.readouterr()
    assert printed.out == alone["물"] + alone["감기"]
    assert "question 2 was not answered" in printed.err
    assert "/etc/hosts: unknown command" in " ".join(printed.err.split())
    assert "a question may begin with a blank" in " ".join(printed.err.split())
    with pytest.raises(RunError, match="2 of 3 questions failed"):  # /again asks, too
        piped(monkeypatch, capsys, run.folder, "/again 2\n/nothing\n물\n")
    assert "question 1 was not answered" in capsys.readouterr().err
    with pytest.raises(SeodangError, match=r"/rset: unknown command"):
        piped(monkeypatch, capsys, run.folder, "물\n/rset\n")
    assert capsys.readouterr().out == alone["물"]


def test_ctrl_c_ends_piped_questions(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody sits there to type the next question: Ctrl-C ends them all."""

    def interrupt(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("seodang.errors.UNPRINTABLE", type("", (), {"sub": interrupt})())
    with pytest.raises(KeyboardInterrupt):
        piped(monkeypatch, capsys, run.folder, "물\n감기\n")


def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, text: str
) -> tuple[str, str]:
    """(stdout, stderr) of one conversation, as in a terminal whose output goes elsewhere."""
    lines = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    monkeypatch.setattr(lines, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", lines)
    chat(model)
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_typed_questions_are_one_conversation(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is given what was asked and answered before; an error ends nothing."""
    chat_model = load_chat_model(run.folder)
    session, expected = Session(settings=chat_model.settings, system="짧게 답하세요."), []
    for question in ("감기", "물"):
        (answer,) = chat_model.answer([chat_model.prompt(session.asked("tuned", question))], chat_model.settings)
        session = session.answered("tuned", question, answer.text)
        expected.append(visible(answer.text))
    out, err = typed(monkeypatch, capsys, run.folder, "감기\n/nonsense\n물\n")
    assert out == "".join(f"{text}\n" for text in expected)
    assert "unknown command" in err


def test_a_full_context_drops_the_oldest_turns(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no longer fits is left out from the oldest on, and said; the answer is that to the turns that are left."""
    chat_model = load_chat_model(run.folder)
    context = chat_model.context
    assert context is not None
    long = "감기약은 식후에 먹습니다. " * 40
    per_turn = chat_model.count_tokens([{"role": "user", "content": long}])
    fitting = (context - chat_model.settings.max_new_tokens) // per_turn
    out, err = typed(monkeypatch, capsys, run.folder, f"{long}\n" * (fitting + 1) + "물\n")
    assert len(out.splitlines()) >= fitting + 2
    assert f"the context of {context:,} tokens is full: the oldest question and its answer are left out" in err
    assert "exceed" not in err


def test_only_as_many_turns_are_dropped_as_is_needed(run: Run) -> None:
    """The prompt fits, and one turn more would not; a question that is too long alone keeps its own error."""
    chat_model = load_chat_model(run.folder)
    assert chat_model.context is not None
    session = Session(settings=chat_model.settings)
    for number in range(40):
        session = session.answered("tuned", f"질문 {number}: " + "감기약은 언제 먹나요? " * 9, "식후입니다.")
    notes = Console(file=io.StringIO())
    room = chat_model.context - chat_model.settings.max_new_tokens
    fitted, prompt = _fit(session, "tuned", "물", chat_model, notes)
    kept = fitted.turns["tuned"]
    assert len(prompt) <= room
    assert 0 < len(kept) < len(session.turns["tuned"])
    assert kept == session.turns["tuned"][-len(kept) :]
    more = Session(settings=session.settings, turns={"tuned": session.turns["tuned"][-len(kept) - 2 :]})
    assert len(chat_model.prompt(more.asked("tuned", "물"))) > room
    alone, prompt = _fit(session, "tuned", "물 " * 3000, chat_model, notes)
    assert (alone.turns["tuned"], len(prompt) > room) == ((), True)


def test_a_foreign_runs_code_needs_permission(run: Run, tmp_path: Path) -> None:
    """A recipe in a run's folder that asks for code to be trusted gives no permission: the caller has to."""
    foreign = Run(folder=Path(shutil.copytree(run.folder, tmp_path / "foreign")))
    recipe = yaml.safe_load((foreign.folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["model"]["trust_remote_code"] = True
    (foreign.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    ran = tmp_path / "ran"
    (foreign.model / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    config = json.loads((foreign.model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    config["model_type"] = "evil"
    (foreign.model / "config.json").write_text(json.dumps(config))
    for base in (False, True):
        with pytest.raises(RunError, match="--trust-remote-code"):
            load_chat_model(foreign.folder, base=base)
    with pytest.raises(SeodangError):  # a model without a run: nothing in it runs either
        load_chat_model(foreign.model)
    assert not ran.exists()
    with pytest.raises(Exception, match="evil"):
        load_chat_model(foreign.folder, trust_remote_code=True)
    assert ran.exists()


def test_base_and_both(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The base answers under the run's template; both answer one after the other, each with its name."""
    tuned, _ = piped(monkeypatch, capsys, run.folder, "물\n")
    base, _ = piped(monkeypatch, capsys, run.folder, "물\n", base=True)
    both, _ = piped(monkeypatch, capsys, run.folder, "물\n", both=True)
    assert base != tuned
    assert both == f"base\n{base}tuned\n{tuned}"
    changed, _ = piped(monkeypatch, capsys, run.folder, "/base\n물\n/both\n/reset\n물\n/tuned\n/reset\n물\n/quit\n물\n")
    assert changed == base + both + tuned


def test_again(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The last question is asked N times, sampled; different answers are counted, and the conversation is unchanged."""
    text = "/settings max_new_tokens=2 temperature=0.01\n물\n/again 6\n물\n"
    out, err = piped(monkeypatch, capsys, run.folder, text)
    first, again, _ = out.splitlines()
    assert again == f"6× {first}"
    assert "different answers: 1 of 6" in err
    _, err = piped(monkeypatch, capsys, run.folder, "물\n/again 3\n")
    assert "asked at temperature 0.1" in err
    with pytest.raises(SeodangError, match="asked nothing"):
        piped(monkeypatch, capsys, run.folder, "/again 3\n")


def test_control_characters_of_a_model_are_shown(
    tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """No model steers the terminal: what it writes is made visible."""
    run = make_run(tmp_path / "long", tiny_folder, tiny_tokenizer, ask={"generate": {"max_new_tokens": 400}})
    chat_model = load_chat_model(run.folder)
    prompt = chat_model.prompt([{"role": "user", "content": "물"}])
    (answer,) = chat_model.answer([prompt], chat_model.settings)
    raw = [char for char in answer.text if char < " " and char not in "\t\n"]
    out, _ = piped(monkeypatch, capsys, run.folder, "물\n")
    assert raw  # a random model writes some
    assert not [char for char in out if char < " " and char not in "\t\n"]


def test_errors(
    tiny_folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be talked to, and what cannot be read, is one clear error."""
    with pytest.raises(TemplateError, match="no chat template"):
        chat(tiny_folder)
    with pytest.raises(RunError, match="only a run knows its base"):
        chat(run.model, base=True)
    with pytest.raises(ModelError, match="no such folder"):
        chat(tmp_path / "nothing")
    with pytest.raises(ModelError, match="exceed"):
        piped(monkeypatch, capsys, run.folder, "물 " * 3000 + "\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("감기\n".encode("cp949")), encoding="utf-8"))
    with pytest.raises(SourceError, match="stdin: is not valid utf-8 text"):
        chat(run.folder)


def test_a_model_without_a_run(run: Run) -> None:
    """Any instruct model can be talked to: its template's own turn end ends an answer."""
    chat_model = load_chat_model(run.model)
    assert chat_model.tokenizer.convert_ids_to_tokens(chat_model.turn_end_id) == "<|im_end|>"
    assert chat_model.system is None


class _Terminal:
    """A pseudo-terminal with a program in it."""

    def __init__(self, code: str) -> None:
        self.own, other = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "100"}
        self.program = subprocess.Popen(
            [sys.executable, "-c", code], stdin=other, stdout=other, stderr=other, env=environment,
            preexec_fn=lambda: _control(other),
        )  # fmt: skip
        os.close(other)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.own, text.encode())

    def wait_for(self, text: str, seconds: float = 120.0) -> str:
        """What appeared up to and with `text`."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, self.text
            if select.select([self.own], [], [], 0.2)[0]:
                self.text += os.read(self.own, 65536).decode(errors="replace")
        before, _, self.text = self.text.partition(text)
        return before


def _control(terminal: int) -> None:
    """Make it the controlling terminal, so that Ctrl-C is a signal."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


@pytest.mark.slow
def test_terminal(tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """In a terminal: Ctrl-C ends an answer and not the program, errors are printed, Ctrl-D leaves."""
    long = {"generate": {"max_new_tokens": 1900}}
    run = make_run(tmp_path / "long", tiny_folder, tiny_tokenizer, ask=long)
    terminal = _Terminal(f"from seodang.serve.chat import chat; chat({str(run.folder)!r})")
    try:
        terminal.wait_for("/help lists the commands")
        terminal.wait_for("›")
        terminal.type("물\r")
        terminal.wait_for(NO_PASTE)  # the line was taken
        time.sleep(0.5)  # of an answer of 911 tokens
        terminal.type("\x03")
        terminal.wait_for("stopped")
        terminal.wait_for("›")
        terminal.type("/settings max_new_tokens=0\r")
        terminal.wait_for("found 0")
        terminal.type("/settings max_new_tokens=3\r")
        terminal.wait_for("temperature=none")
        terminal.type("/reset\r")  # how much was answered before Ctrl-C must not matter
        terminal.wait_for(NO_PASTE)
        terminal.wait_for("›")
        terminal.type("물\r")
        terminal.wait_for("cut off at 3 tokens")
        terminal.wait_for("›")
        terminal.type("\x03")
        terminal.wait_for(NO_PASTE)  # that prompt has ended: the next one is another
        terminal.wait_for("›")
        terminal.type("\x04")
        assert terminal.program.wait(timeout=300) == 0
    finally:
        terminal.program.kill()
        os.close(terminal.own)
