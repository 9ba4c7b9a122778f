"""The command line: its commands and their help, overrides, exit codes, and streams of any encoding."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from command import Workplace, json_lines, qa_rows, seodang
from launched import start
from paths import ROOT
from seodang import __version__
from seodang.cli import app, entry, main
from seodang.cli.app import ORDER
from seodang.recipe_file import shipped_recipes
from seodang.show.crash_log import write_crash_log

COMMANDS = [str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands]


@pytest.fixture
def place(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A user's empty folder, in which commands are run; the model lies elsewhere."""
    monkeypatch.chdir(tmp_path)
    return Workplace(folder=tmp_path, model=tiny_folder)


def test_the_commands_that_the_design_promises_are_there() -> None:
    """Commands are public names: they go only on purpose."""
    assert {"demo", "inspect", "tune", "prove", "report"} <= set(COMMANDS)


def test_help_lists_every_command() -> None:
    """`seodang --help` and plain `seodang` show each command."""
    ended = seodang("--help")
    assert ended.code == 0
    listed = re.findall(r"^[│|] (\w+) ", ended.out, re.MULTILINE)
    assert set(COMMANDS) <= set(listed)
    assert [name for name in listed if name in COMMANDS] == list(ORDER)  # as a user needs them
    assert [line for line in seodang().out.splitlines() if line] == [line for line in ended.out.splitlines() if line]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """`seodang COMMAND --help` says what it does, and what every argument and option is."""
    command = next(c for c, known in zip(app.registered_commands, COMMANDS, strict=True) if known == name)
    summary = str(command.callback.__doc__).splitlines()[0]
    ended = seodang(name, "--help")
    assert ended.code == 0
    told = " ".join(re.sub(r"[│╭╮╰╯─|+]|-{4,}", " ", ended.out).split())
    assert summary in told
    begins = re.compile(r"[│|] {1,8}(\* +)?(-\w, *)?(--)?\w")  # further right, the text before goes on
    rows = [line.strip("│| ") for line in ended.out.splitlines() if begins.match(line)]
    assert rows
    assert all(len(row.split("  ")[-1].strip()) > 5 for row in rows), rows


def test_version() -> None:
    """`seodang --version` prints the package's version."""
    ended = seodang("--version")
    assert (ended.code, ended.out) == (0, f"seodang {__version__}\n")


def test_the_installed_command_is_this_one() -> None:
    """The script in pyproject.toml is `main`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["scripts"]["seodang"].partition(":")
    assert getattr(import_module(module), name) is main


def _named_commands(text: str) -> Iterator[str]:
    """Words after `seodang` where a command is written: in code, or at the start of a commented line of a recipe."""
    for block in re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL):
        yield from re.findall(r"(?:^|[`/]|\$ )seodang +([a-z]\w*)", block, flags=re.MULTILINE)
    yield from re.findall(r"^# {3,}seodang +(\w+)", text, flags=re.MULTILINE)


def test_commands_in_the_documentation_exist() -> None:
    """Every command that README, docs and shipped recipes name is one."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src/seodang/recipes").glob("*.yaml")]
    named = {(page.name, name) for page in pages for name in _named_commands(page.read_text(encoding="utf-8"))}
    assert ("demo.yaml", "demo") in named
    assert {(page, name) for page, name in named if name not in COMMANDS} == set()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["tun"], "No such command 'tun'"),
        (["tune"], "Missing argument 'RECIPE'"),
        (["tune", "demo", "--resum"], "No such option: --resum"),
        (["tune", "demo", "--out"], "requires an argument"),
    ],
)
def test_a_wrong_command_line_is_one_message(arguments: list[str], what: str) -> None:
    """Commands, arguments and options that there are not: exit code 2, without a traceback."""
    ended = seodang(*arguments)
    assert ended.code == 2
    assert what in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err


def test_overrides_reach_the_recipe(place: Workplace) -> None:
    """KEY=VALUE changes what is printed, done and recorded."""
    changes = ("train.max_tokens=77", "sources.medical.take=5")
    ended = seodang("inspect", *place.recipe(*changes), "--out", "seen", "--verbose")
    assert ended.code == 0
    assert re.search(r"training, about \d", ended.out)
    assert "max_tokens=77" in ended.out
    recorded = yaml.safe_load((place.folder / "seen/recipe.yaml").read_text(encoding="utf-8"))
    assert (recorded["train"]["max_tokens"], recorded["sources"][0]["take"]) == (77, "5")
    assert recorded["train"]["steps"] == 1


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_known_by_name(name: str, place: Workplace) -> None:
    """A shipped recipe's name leads to it: at fault is what it needs, or else the device that was asked for."""
    ended = seodang("inspect", name, "model.device=none")
    faults = re.findall(r"^(?:error:|  -) ([\w.-]+)", ended.err, re.MULTILINE)
    needs = ("model.path", "template.borrow", "sources.", "model.device")
    assert ended.code == 2
    assert [fault for fault in faults if fault.startswith(needs)]
    assert "in the recipe\n" not in ended.err


def test_a_dry_run_trains_nothing(place: Workplace) -> None:
    """`tune --dry-run` prints what `inspect` prints, memory and time of the moment aside, and leaves nothing."""
    arguments = place.recipe()
    before = place.snapshot()
    seodang("inspect", *arguments)  # the rows are in the cache for both
    ended = seodang("tune", *arguments, "--dry-run")
    inspected = seodang("inspect", *arguments)
    told, expected = (re.sub(r"\d+\.\d+ (GB|s)| +", " ", one.out).split() for one in (ended, inspected))
    assert (ended.code, told) == (0, expected)
    assert place.snapshot() == before


def test_a_dry_run_ends_with_a_command_that_works(place: Workplace) -> None:
    """It writes nothing, even with --out; where the run's folder is taken, a free one is proposed, or to resume."""
    [recipe, *changes] = place.recipe()
    (place.folder / "taken").mkdir()
    (place.folder / "taken" / "notes.txt").touch()
    for given, proposed in (([], []), (["--out", "new"], ["--out", "new"]), (["--out", "taken"], ["--out", "taken-2"])):
        before = place.snapshot()
        ended = seodang("tune", recipe, *changes, *given, "--dry-run")
        assert shlex.join(["seodang", "tune", recipe, *changes, *proposed]) + " " in ended.out
        assert place.snapshot() == before
    (place.folder / "runs" / "mine").mkdir(parents=True)
    (place.folder / "runs" / "mine" / "recipe.yaml").write_text("name: mine\n", encoding="utf-8")
    (place.folder / "runs" / "mine" / "manifest.json").write_text("{}", encoding="utf-8")
    for command in (("tune", recipe, *changes, "--dry-run"), ("inspect", recipe, *changes)):
        ended = seodang(*command)
        assert "seodang tune runs/mine --resume " in ended.out
        assert shlex.join(["seodang", "tune", recipe, *changes, "name=mine-2"]) + " " in ended.out


@pytest.mark.parametrize(
    ("changes", "code"), [([], 0), (["train.max_tokens=20", "train.too_long=refuse"], 1), (["train.steps=0"], 2)]
)
def test_exit_codes(changes: list[str], code: int, place: Workplace) -> None:
    """0: done; 1: readable data that must not be trained on; 2: the user's mistake."""
    assert seodang("inspect", *place.recipe(*changes)).code == code


def test_a_fault_of_seodang_is_one_line_with_a_log(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever nobody foresaw: no traceback in the terminal, but one line that names a file with it."""
    monkeypatch.setenv("SEODANG_CACHE", str(place.folder / "cache"))

    def fail(*_: object, **__: object) -> None:
        raise KeyError("many\n\x1b[2Jlines", 7)

    for command in (["inspect", "demo"], ["tune", "demo"], ["prove", "demo"], ["chat", "demo"], ["init", "a.csv"]):
        with monkeypatch.context() as patched:
            for name in ("pipeline.inspect", "pipeline.tune", "pipeline.prove", "serve.chat.chat", "pipeline.init"):
                patched.setattr(f"seodang.{name}", fail)
            ended = seodang(*command)
        assert (ended.code, ended.out) == (70, "")
        assert len(ended.err.splitlines()) == 1
        assert "Traceback" not in ended.err
        assert "\x1b" not in ended.err
        assert "internal error: KeyError: ('many" in ended.err
        log = re.search(r"please report it with (\S+\.log)", ended.err)
        assert log, ended.err
        text = Path(log[1]).read_text(encoding="utf-8")
        assert f"seodang {__version__}" in text
        assert "Traceback (most recent call last)" in text
        assert "raise KeyError" in text


def test_a_crash_log_goes_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache cannot be written, temporary files can; no command line and no variable stands in it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("MY_TOKEN", "hf_" + "a" * 30)
    monkeypatch.setattr(sys, "argv", ["seodang", "--token", "hf_" + "b" * 30])
    written = write_crash_log(ValueError("\udcb0"))
    assert written
    assert written.parent == Path(tempfile.gettempdir())
    assert not re.search("hf_[ab]+", written.read_text(encoding="utf-8"))
    written.unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_130(number: int, place: Workplace) -> None:
    """A command that is interrupted, terminated or hung up on says so in one line."""
    os.mkfifo(place.folder / "out.0")
    process = start("-m", "seodang", "tune", *place.recipe("train.steps=100000"), cwd=place.folder)
    with (place.folder / "out.0").open("rb") as out:
        out.read(1)  # the plan: it is at work
        os.kill(process.pid, number)
        while out.read(1024):
            pass
    assert process.code(time.monotonic() + 60) == 130
    err = (place.folder / "err.0").read_text(encoding="utf-8")
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err


def test_korean_on_a_stream_that_cannot_write_it(place: Workplace) -> None:
    """Where stdout is ASCII, Korean becomes question marks, and the command ends as it should."""
    done = subprocess.run(
        [sys.executable, "-c", "from seodang.cli import main; main()", "inspect", *place.recipe("system=짧게 답해.")],
        cwd=place.folder,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert "?? ??." in done.stdout.decode("ascii")


def test_a_reader_that_goes_away(place: Workplace) -> None:
    """`seodang … | head -1` ends quietly."""
    os.mkfifo(place.folder / "out.0")
    process = start("-m", "seodang", "inspect", *place.recipe(), cwd=place.folder)
    (place.folder / "out.0").open("rb").close()
    assert process.code(time.monotonic() + 60) == 1
    err = (place.folder / "err.0").read_text(encoding="utf-8")
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_names_reach_the_terminal_without_escape_sequences(place: Workplace) -> None:
    """A data file's name and the folder of --out hold control characters: what is printed does not, well or ill."""
    name = "의료\x1b[31m.jsonl"
    place.write(name, json_lines(qa_rows(40)))
    [recipe] = place.recipe(path=name)
    for arguments in (
        ("inspect", recipe),
        ("tune", recipe, "--dry-run", "--out", "a\x1b[2Jb"),
        ("tune", recipe, "--out", "none\x1b[2J/there\x1b[1m", "train.stepz=1"),
        ("prove", "runs/\x1b[2Jnone"),
        ("report", "runs/\x1b[2Jnone"),
        ("chat", "runs/\x1b[2Jnone"),
    ):
        ended = seodang(*arguments)
        assert "\x1b" not in ended.out + ended.err, arguments


def test_what_keeps_its_measures_names_itself_when_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prove` that was interrupted is resumed by the same command; a command that keeps nothing only ends."""

    def interrupt(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("seodang.pipeline.prove", interrupt)
    monkeypatch.setattr("seodang.pipeline.init", interrupt)
    again = "interrupted; what was finished is kept; to resume:\n  seodang prove 'my run'\n"
    for command, said in (("prove", again), ("init", "interrupted\n")):
        ended = seodang(command, "my run")
        assert (ended.code, ended.err) == (130, said)


def test_a_data_file_is_not_a_recipe(tmp_path: Path) -> None:
    """The commonest first mistake leads to `init`; a run's folder leads to the recipe in it."""
    (tmp_path / "qa.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").touch()
    ended = seodang("tune", tmp_path / "qa.csv")
    assert ended.code == 2
    assert f"let `seodang init {tmp_path}/qa.csv` write a recipe for it" in ended.err
    assert f"give the recipe in it: {tmp_path}/run/recipe.yaml" in seodang("inspect", tmp_path / "run").err


def test_korean_is_read_and_written_in_a_locale_that_has_none() -> None:
    """Where Python would take names for ASCII, the command runs in UTF-8 mode: a Korean name stays what it is."""
    done = subprocess.run(
        [sys.executable, "-m", "seodang", "tune", "없는 요리법.yaml"],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: 없는 요리법.yaml: no such file")


def test_a_disk_that_is_full_is_no_traceback_of_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thread that writes its events ends with an error that the next event raises: it is shown once."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    monkeypatch.setattr(threading, "excepthook", entry._show_fault_of_thread)
    writer = EventFileWriter(str(tmp_path / "board"))
    shutil.rmtree(tmp_path / "board")
    writer.add_event(Event(step=1))
    with pytest.raises(FileNotFoundError):
        writer.flush()
    assert capsys.readouterr().err == ""
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert "ZeroDivisionError" in capsys.readouterr().err
