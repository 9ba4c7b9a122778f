"""terminal: the same evidence at 100 columns, in Korean, with and without colour."""

import io
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

import run_folder
from events import eval_event, train_event
from seodang.data.template.find import ChatTemplate
from seodang.errors import SeodangError, SourceError
from seodang.proof.seeds import compare_seeds
from seodang.recipe import load_recipe
from seodang.run.events import NoteEvent, SpeedEvent
from seodang.run.folder import Run
from seodang.show import sentences
from seodang.show.terminal import console, data_view, plan_view, progress, proof_view, time_left
from seodang.show.terminal.verbosity import set_verbose
from seodang.types import Answer, Counts, Finding, ProofCost, Sample
from seodang.user_paths import path_argument, shown_path


def test_a_question_takes_numbers_names_and_first_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter takes the guess, wherever it stands; what fits none is asked again."""
    choices = {"domain": "to learn", "general": "", "retention": "measured"}
    for typed, chosen in (([], "general"), (["g"], "general"), (["3"], "retention"), (["x", "4", "Dom"], "domain")):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in typed or [""])))
        assert console.choose("which role?", choices, "general") == chosen


@pytest.fixture
def verbose() -> Iterator[None]:
    """All is printed."""
    set_verbose(True)
    yield
    set_verbose(False)


def printed(show: str, *values: object, width: int = 100, color: bool = False, **settings: object) -> str:
    """What a function of the terminal prints."""
    file = io.StringIO()
    out = Console(
        file=file, width=width, highlight=False, markup=False, emoji=False,
        force_terminal=color, color_system="truecolor" if color else None,
    )  # fmt: skip
    module = next(module for module in (plan_view, data_view, proof_view, console) if hasattr(module, show))
    getattr(module, show)(*values, **settings, out=out)
    return file.getvalue()


SEEDS = compare_seeds({Path(name): run_folder.run_proof() for name in ("runs/a-s1", "runs/a-s2")})
COST = ProofCost(sequences=300, tokens=40_000, answers=38, answer_tokens=4_864, seconds=190.0, gflops=80.0)
PLACEMENT = SimpleNamespace(
    reasons=("Device: CPU, no CUDA device was found.",), device="cpu", dtype="float32", compute_dtype="float32"
)
ANSWERS = list(run_folder.run_answers())
SHOWN = [
    ("show_plan", (load_recipe(run_folder.RECIPE), PLACEMENT), ["CPU, no CUDA device was found; float32", "held out"]),
    ("show_counts", (run_folder.run_counts(),), ["−7,511 take 1/3", "~212 NFD to NFC", "read as CSV in CP949"]),
    ("show_findings", (run_folder.run_findings(),), ["warn    source 의료_질문: 38", "→ keep one answer each"]),
    ("show_lengths", (run_folder.run_lengths(),), ["tokens per example", "part     examples", "above 320", "holdout"]),
    ("show_samples", (run_folder.run_samples(),), ["⟦성인은 1회", "식후에 복용합니다.<end_of_turn>⟧"]),
    ("show_proof", (run_folder.run_proof(),), ["fell by 0.906", "−1.052 to −0.760", "+0.096", "0% → 100%"]),
    ("show_seeds", (SEEDS,), ["2 runs", "With every seed: domain improved", "retention lost", "−0.906 −0.906"]),
    ("show_cost", (COST,), ["about 3 min 10 s", "300 sequences, 40,000", "38 answers, at most 4,864"]),
    ("show_cost", (replace(COST, of_base="nothing"),), ["for the tuned model alone, as the base was measured already"]),
    ("show_cost", (replace(COST, of_base="answers"),), ["the tuned model and the base's answers", "each writes 38"]),
    ("show_answers", (ANSWERS,), ["안토시아닌", "cut off at 256", "3× 감기약은", "and 2 more different answers"]),
]  # fmt: skip


@pytest.mark.parametrize(("show", "values", "expected"), SHOWN, ids=[show for show, _, _ in SHOWN])
@pytest.mark.parametrize("width", [60, 100, 160])
def test_everything_fits_the_width(show: str, values: tuple[object, ...], expected: list[str], width: int) -> None:
    """No line is wider than the terminal, Korean counted as two cells; at 100 columns all that matters is there."""
    text = printed(show, *values, width=width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    if width == 100:
        for words in expected:
            assert words in text, words


@pytest.mark.parametrize(
    ("files", "reached", "left"),
    [
        ([], "nothing is measured yet", "measuring the base, training, measuring the tuned model"),
        (["base.json"], "the base is measured", "training, measuring the tuned model"),
        (
            ["base.json", "checkpoints/checkpoint-4/trainer_state.json"],
            "step 4 of 6",
            "training from step 5, measuring",
        ),
        (["checkpoints/checkpoint-6/trainer_state.json"], "step 6 of 6", "saving the model, measuring"),
        (["base.json", "model/config.json"], "training has ended", "measuring the tuned model"),
    ],
)
def test_a_resumed_run_names_what_is_left(files: list[str], reached: str, left: str, tmp_path: Path) -> None:
    """How far it came, by its files, and where its settings are."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = printed("show_resumed", Run(folder=tmp_path), 6, width=200).splitlines()
    assert f"{tmp_path.name}, resumed" in lines[1]
    assert lines[2].split("  ")[0] == "reached"
    assert reached in lines[2]
    assert lines[3].removeprefix("left").strip().startswith(left)
    assert "recipe.yaml; --verbose prints plan and data again" in lines[4]


@pytest.mark.parametrize(
    ("columns", "width"), [(None, 100), ("57", 57), ("160", 160), ("", 100), ("0", 100), ("x", 100)]
)
def test_what_is_piped_is_as_wide_as_columns(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no terminal COLUMNS is the width of titles, tables and sentences; without it there are 100."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    for show, values in (("show_counts", run_folder.run_counts()), ("show_findings", run_folder.run_findings())):
        getattr(data_view, show)(values)
        lines = capsys.readouterr().out.splitlines()
        assert cell_len(lines[1]) == width
        assert max(map(cell_len, lines)) == width
    console.show_note("word " * 100)
    assert width - 5 <= max(map(cell_len, capsys.readouterr().out.splitlines())) <= width


def test_findings_of_one_kind_share_their_hint() -> None:
    """They stand together, whatever comes between them in the data, and how to fix them is read once."""
    ways = (("copies", "a", "leave out"), ("echo", "a", "read them"), ("copies", "b", "leave out"))
    found = [Finding(check=check, severity="warn", where=where, what=check, hint=hint) for check, where, hint in ways]
    shown = [line.removeprefix("warn").strip() for line in printed("show_findings", found).splitlines()[2:]]
    assert shown == ["a: copies", "b: copies", "→ leave out", "a: echo", "→ read them"]


def test_the_end_of_the_input_is_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-D: the message names the question and what to give instead; Ctrl-C leaves the prompt's line."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SeodangError, match=r"input ended(?s:.)*which role(?s:.)*--domain"):
        console.choose("which role?", {"domain": "", "general": ""}, "general")
    monkeypatch.setattr("builtins.input", lambda *_: signal.raise_signal(signal.SIGINT))
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        console.choose("which role?", {"domain": "", "general": ""}, "general")
    assert capsys.readouterr().out.endswith("> \n")


@pytest.mark.parametrize(
    ("changes", "often"),
    [
        (["train.steps=4", "train.eval_every=46"], "after training"),
        (["train.steps=80", "train.eval_every=20"], "every 20 steps"),
        (["train.steps=8", "train.eval_every=null"], "after every step"),
        (["train.steps=null", "train.eval_every=null"], "ten times during training"),
    ],
)
def test_the_plan_says_when_a_run_is_evaluated(changes: list[str], often: str) -> None:
    """No interval is named that the run does not reach."""
    assert f"losses, also {often};" in " ".join(printed("show_plan", load_recipe("demo", changes), width=200).split())


def test_each_split_has_its_own_rows_above_the_limit() -> None:
    """Of a source that has both, its training rows and its held-out ones are counted apart."""
    lines = [line.split() for line in printed("show_lengths", run_folder.run_lengths(), width=160).splitlines()]
    above = {(line[0], line[1]): line[-1] for line in lines if len(line) > 5 and line[1] in ("train", "holdout")}
    assert above == {
        ("의료_질문", "train"): "12", ("의료_질문", "holdout"): "2",
        ("일반대화", "train"): "0", ("일반대화", "holdout"): "0", ("wiki", "holdout"): "0",
    }  # fmt: skip


def test_where_nothing_is_trained_no_training_row_is_shown() -> None:
    """What a proof measures: the row that is held out, and the lengths of these alone."""
    splits = {split: Sample(where="a:1", text=f"row of {split}", supervised=()) for split in ("train", "holdout")}
    assert "row of train" in printed("show_samples", {"가": splits})
    measured = printed("show_samples", {"가": splits}, will_train=False)
    assert "row of holdout" in measured
    assert "row of train" not in measured
    lines = printed("show_lengths", run_folder.run_lengths(), width=160, will_train=False).split()
    assert lines.count("holdout") == 3
    assert "train" not in lines


def test_colours_only_where_there_is_a_terminal() -> None:
    """Without a terminal the output holds no escape sequence; with one it does, and says the same."""
    plain, colored = (printed("show_counts", run_folder.run_counts(), color=color) for color in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[" in colored


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR turns colours off even on a terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    assert console.get_console().no_color


def test_models_cannot_steer_the_terminal() -> None:
    """Markup in an answer is text, and its escape sequences are shown instead of sent."""
    fields = {"kind": "domain", "question": "[bold]무엇?[/bold]", "stopped": True, "prompt_tokens": 1, "new_tokens": 1}
    text = printed("show_answers", [Answer(model="tuned", text="[red]\x1b[2J가[/red] :smile:", **fields)])
    assert "[bold]무엇?[/bold]" in text
    assert "[red]␛[2J가[/red] :smile:" in text
    assert "\x1b[2J" not in text
    assert "base: no answer" in text


EVIL = "a\x1b[2J\x9b\nb.csv"


@pytest.mark.parametrize(
    ("show", "values"),
    [
        ("show_counts", ([Counts(stage="read", source=EVIL, rows_in=1, kept=0, dropped={EVIL: 1}, remarks=(EVIL,))],)),
        ("show_findings", ([Finding(check="x", severity="warn", where=EVIL, what=EVIL, hint=EVIL, rows=(EVIL,))],)),
        ("show_samples", ({EVIL: {"train": Sample(where=EVIL, text=EVIL, supervised=((0, 3),))}},)),
        ("show_end", (EVIL, Path(EVIL), 1.0)),
        ("show_starter", (Path(EVIL), f"path: {EVIL}", [EVIL])),
        ("show_error", (SourceError(EVIL, where=EVIL, hint=EVIL),)),
        ("show_plan", (load_recipe(run_folder.RECIPE | {"name": "x"}).model_copy(update={"name": EVIL}),)),
    ],
)
def test_names_cannot_steer_the_terminal(show: str, values: tuple[object, ...]) -> None:
    """A file is called as it likes: its control characters are shown, whichever part of the evidence names it."""
    text = printed(show, *values)
    assert "␛[2J" in text
    assert not set(text) & {"\x1b", "\x9b"}


def test_whatever_is_printed_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    """The console itself masks what its caller forgot, in tables too; its own colours stay."""
    table = Table(EVIL)
    table.add_row(EVIL)
    console.get_console().print(EVIL, table, Text(EVIL, style="bold"))
    printed_text = capsys.readouterr().out
    assert not set(printed_text) & {"\x1b", "\x9b"}
    assert printed_text.count("␛[2J") == 4
    colored = console._SafeConsole(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    colored.print(Text(EVIL, style="bold red"))
    assert "\x1b[1;31m" in colored.file.getvalue()
    assert "\x1b[2J" not in colored.file.getvalue()


def test_narrow_terminals_show_answers_one_above_the_other() -> None:
    """Below 80 columns the tuned answer stands below the base's, not beside it."""
    lines = printed("show_answers", ANSWERS[:2], width=70).splitlines()
    assert [line for line in lines if line.strip() in ("base", "tuned")] == ["base", "tuned"]
    wide = printed("show_answers", ANSWERS[:2]).splitlines()
    assert any(line.split() == ["base", "tuned"] for line in wide)


def test_findings_start_with_the_gravest() -> None:
    """What refuses or warns stands above what was only noted."""
    text = printed("show_findings", run_folder.run_findings()[::-1])
    assert text.index("warn") < text.index("fixed") < text.index("note")


def test_no_findings_say_nothing() -> None:
    """Without findings there is no empty heading."""
    assert printed("show_findings", []) == ""


def test_errors_say_where_what_and_how_to_fix_it() -> None:
    """An error is one message with its place and its hint, markup in it taken literally."""
    error = SourceError("no column [질문]", where="a.csv:1", hint="name it with `question:`")
    assert printed("show_error", error).splitlines() == [
        "error: a.csv:1: no column [질문]",
        "  → name it with `question:`",
    ]


def test_errors_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """stdout stays clean where something fails."""
    console.show_error(SourceError("broken"))
    printed = capsys.readouterr()
    assert (printed.out, printed.err.strip()) == ("", "error: broken")


def test_bars_are_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """In a log file no bar is drawn."""
    with progress.Bars() as bars:
        bars.add("train", lambda: (0.5, "1/2", None))
    assert "".join(capsys.readouterr()) == ""


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So many of so many, or so many where nobody knows how many there are."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.watching("files opened", 3) as advance:
        advance(1)
        advance(2)
    with progress.watching("rows read", None) as advance:
        advance(4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["files opened: 1 of 3", "files opened: 3 of 3", "rows read: 4"]
    assert lines[0].endswith(" s left")


def test_what_is_over_at_once_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """Of what is mostly over at once nothing is shown; `counting` says when it is done in any case."""
    with progress.watching("files opened", 3) as advance:
        advance(3)
    assert "".join(capsys.readouterr()) == ""
    with progress.counting("rows", 3) as advance:
        advance(3)
    assert capsys.readouterr().out.startswith("rows: 3 in ")


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> progress.Bars:
    """The bars of the next progress, in a terminal of 80 columns."""
    out = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(progress, "get_console", lambda **_: out)
    made = progress.Bars()
    monkeypatch.setattr(progress, "Bars", lambda: made)
    return made


def drawn(bars: progress.Bars) -> list[str]:
    """The bars as they are drawn now."""
    file = io.StringIO()
    Console(file=file, width=80).print(*bars.get_renderables())
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("fails", [False, True])
def test_a_bar_comes_late_and_goes_at_the_end(
    fails: bool, bars: progress.Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal a bar is drawn once something was counted, and is gone whatever happens then."""
    monkeypatch.setattr(progress, "BAR_SECONDS", 0.0)
    with suppress(KeyboardInterrupt), progress.watching("files opened", 3) as advance:
        assert not bars.live.is_started
        advance(2)
        assert bars.live.is_started
        assert "2/3" in drawn(bars)[0]
        if fails:
            raise KeyboardInterrupt
    assert not bars.live.is_started


def test_bars_go_by_work_and_show_the_time_left(bars: progress.Bars) -> None:
    """Of rows that differ in length, tokens are the measure; before the first of them the estimate is shown."""
    with progress.expecting({"rows": 90.0}, alike={}), progress.counting("rows", 10, work=1000) as advance:
        assert "about 1 min 30 s left" in drawn(bars)[0]
        advance(5, 100)
        (line,) = drawn(bars)
        assert "5/10" in line
        assert round(bars.tasks[0].percentage) == 10
        assert line.endswith(" s left")


def test_an_evaluation_has_a_bar_below_trainings(bars: progress.Bars) -> None:
    """Training says what it waits for, and the whole run how long it still takes; at 80 columns it fits."""
    timed = time_left.TrainingTime(
        4, step_seconds=5.0, every={"evaluation": 4}, interruption_seconds={"evaluation": 9.0}
    )
    expected = progress.expecting({"training": 20.0, "tuned: answers": 30.0}, alike={}, training=timed)
    with expected, progress.training(4) as show:
        assert drawn(bars)[0].endswith("0/4 about 29 s left")
        show(train_event(4, 3.5, tokens_per_second=90.0, seconds=1.0, steps=4))
        with show.interruption("evaluation", "held-out rows", 32, step=4, work=600) as advance:
            advance(12, 300)
            first, whole, below = drawn(bars)
            assert first.startswith("training: waits for held-out rows")
            assert "100%" not in first
            assert whole.startswith("whole run")
            assert "about" in whole
            assert below.startswith("step 4: held-out rows")
            assert "12/32" in below
        assert len(drawn(bars)) == 2
        assert drawn(bars)[0].startswith("training: loss 3.500, 90 tokens/s")
    assert progress._expected == progress._Expected()  # a later proof in this process waits for nothing


def test_without_a_terminal_an_evaluation_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A long evaluation says how far it is in the log file."""
    with progress.training(4) as show, show.interruption("evaluation", "held-out rows", 32, step=4) as advance:
        advance(1)
        show._changed -= 100
        advance(12)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("step 4: held-out rows 13/32, ")


def test_the_bases_losses_are_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As those of later evaluations, named."""
    progress.show_evaluation(eval_event(0, {"medical": 4.183, "general": 3.727}))
    assert capsys.readouterr().out.strip() == "step 0: held-out loss medical 4.183, general 3.727  (the base)"


def test_nothing_held_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """No blank stands where losses would."""
    progress.show_evaluation(eval_event(0, {}))
    assert "held-out loss not measured, as no rows are held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("is_limited", "kept"), [(False, "the lowest is"), (True, "the lowest within the tolerances is")]
)
def test_an_evaluation_states_which_checkpoint_is_kept(
    is_limited: bool, kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lowest loss alone does not decide where tolerances limit the choice."""
    with progress.training(2, is_limited=is_limited) as show:
        show(eval_event(1, {"medical": 3.2}, loss=3.2))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"(score 3.200: the checkpoint with {kept} kept)" in printed


def test_all_of_a_run_is_in_one_stream_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """In a log file, speed, evaluations and notes stand among the steps, in their order."""
    speed = SpeedEvent(step=1, tokens_per_second=95.0, limit_share=0.46, matrix_gflops=400.0, seconds=0.1)
    note = NoteEvent(what="smaller packs")
    events = [train_event(1, 4.0, tokens_per_second=90.0), speed, note, eval_event(1, {"medical": 3.2})]
    with progress.training(2) as show:
        for event in events:
            show(event)
    printed = capsys.readouterr()
    begins = ["step 1/2", "speed: 95 tokens/s, 46%", "· smaller packs", "step 1: held-out"]
    places = [printed.out.index(begin) for begin in begins]
    assert places == sorted(places)
    assert printed.err == ""


def test_stages_of_one_source_stand_together(verbose: None) -> None:
    """Counts that come stage by stage are shown source by source."""
    counts = [
        Counts(stage=stage, source=source, rows_in=1, kept=1)
        for stage in ("convert", "split")
        for source in ("가", "나")
    ]
    rows = [line.split()[:2] for line in printed("show_counts", counts).splitlines()[-4:]]
    assert [row[0] for row in rows] == ["가", "split", "나", "split"]


def test_the_template_is_shown() -> None:
    """Where the template is from, and the token that ends an answer."""
    template = ChatTemplate(
        text="",
        origin="built-in gemma",
        turn_end="<end_of_turn>",
        turn_end_id=106,
        header="",
        markers=(),
        added=(),
        kwargs={},
    )
    assert "built-in gemma; an answer ends with <end_of_turn> (token 106)" in printed("show_template", template)


def test_answers_are_not_dimmed() -> None:
    """What a model said is printed in the terminal's own colour: only labels are dim."""
    text = printed("show_answers", ANSWERS[1:2], color=True)
    line = next(line for line in text.splitlines() if "1. 기저 인슐린" in line)
    assert line.rstrip().endswith("맞습니다.")
    assert "\x1b[2m" not in line.partition("1. 기저")[0].rpartition("\x1b[0m")[2]


def test_a_setting_of_several_lines_stands_on_one(verbose: None) -> None:
    """Headers of a template end in line breaks, and may be blank: shown as a recipe writes them."""
    headers = {"system": "", "user": "### User:\n", "assistant": "A:"}
    source = {"name": "a", "path": "a.jsonl", "role": "domain"}
    recipe = load_recipe({"name": "x", "model": "m", "template": {"headers": headers}, "sources": [source]})
    text = printed("show_plan", recipe)
    assert 'headers={user: ### User:\\n, assistant: A:, system: "", between: \\n\\n}' in text


def test_the_plan_is_five_lines_and_all_settings_on_request(verbose: None) -> None:
    """Model, data, training, measures and where all settings are written; with --verbose every key as well."""
    recipe = load_recipe(run_folder.RECIPE, ["train.best_by=domain_within_tolerance"])
    settings = printed("show_plan", recipe, PLACEMENT)
    for words in ("epochs=3", "default: too_long=drop", "no CUDA", "the least bad."):
        assert words in settings
    set_verbose(False)
    file = io.StringIO()
    out = Console(file=file, width=300, markup=False)
    plan_view.show_plan(recipe, PLACEMENT, num_parameters=268_098_176, folder=Path("runs/a"), out=out)  # type: ignore[arg-type]
    lines = [line.rstrip() for line in file.getvalue().splitlines()[2:]]
    assert [line.split()[0] for line in lines] == ["model", "data", "training", "measured", "writes"]
    assert "268M parameters" in lines[0]
    assert "held out: " in lines[1]
    assert "3 passes over the rows, 16 examples a step" in lines[2]
    assert re.search(r"answers to .*at most \d+ held-out ones? of each source with answers$", lines[3])
    assert lines[4].endswith("runs/a; all settings: runs/a/recipe.yaml; --verbose prints them")


def test_many_sources_are_joined_in_the_plan() -> None:
    """By role, and by how much of them is held out."""
    sources = [{"name": f"s{n}", "path": "a.jsonl", "role": "domain" if n < 5 else "general"} for n in range(7)]
    text = " ".join(printed("show_plan", load_recipe({"name": "x", "model": "m", "sources": sources})).split())
    assert "5 domain (s0, s1, s2, s3 and 1 more); 2 general (s5, s6); held out: 5% of each" in text


def test_stages_that_changed_nothing_are_not_listed() -> None:
    """A source of which nothing was dropped or changed has one line, with all remarks; the others their stages."""
    counts = [
        Counts(stage="convert", source="가", rows_in=3, kept=3, remarks=("read as qa",)),
        Counts(stage="split", source="가", rows_in=3, kept=3, remarks=("1 held out",)),
        Counts(stage="convert", source="나", rows_in=3, kept=2, dropped={"empty": 1}),
        Counts(stage="split", source="나", rows_in=2, kept=2),
        Counts(stage="mix", source="all", rows_in=5, kept=5),
    ]
    lines = [line.split() for line in printed("show_counts", counts).splitlines()[3:]]
    assert lines == [
        ["가", "3", "3", "read", "as", "qa;", "1", "held", "out"],
        ["나", "convert", "3", "2", "−1", "empty"],
    ]


def test_long_rows_are_folded(verbose: None) -> None:
    """Each part of a row shows its beginning and how much more there is; with --verbose all of it."""
    sample = Sample(where="a:1", text="q " * 400 + "answer " * 100, supervised=((800, 1500),))
    shown = {"가": {"train": sample}}
    assert printed("show_samples", shown).split().count("answer") == 100 - 1  # the first bears a bracket
    set_verbose(False)
    text = " ".join(printed("show_samples", shown).split())
    assert "more characters)⟦answer" in text
    assert text.endswith("more characters)⟧")
    assert text.count("answer") < 50


def test_a_handful_of_questions_of_each_kind(verbose: None) -> None:
    """Five questions without --verbose, the first of each kind before the second; how many more there are."""
    fields = {"model": "tuned", "stopped": True, "prompt_tokens": 1, "new_tokens": 1, "text": "답"}
    kinds = [*["domain"] * 4, *["general"] * 3, "repeat", *["holdout"] * 2]
    answers = [Answer(kind=kind, question=f"{kind} {n}?", **fields) for n, kind in enumerate(kinds)]
    assert sum(line.strip().endswith("?") for line in printed("show_answers", answers).splitlines()) == 10
    set_verbose(False)
    lines = printed("show_answers", answers).splitlines()
    asked = [line.strip() for line in lines if line.strip().endswith("?")]
    assert asked == ["domain 0?", "domain 1?", "general 4?", "repeat 7?", "holdout 8?"]
    assert lines[-1].strip() == "5 more questions in the report"


def test_the_verdict_ends_with_warnings_after_the_tables() -> None:
    """Without --verbose, remarks that explain figures are counted only; all are in the report."""
    proof = run_folder.run_proof()
    text = printed("show_proof", proof, width=300)
    everything, warnings = sentences.sentences(proof), sentences.warnings(proof)
    assert set(warnings) <= set(everything)
    shown = [sentence for sentence in everything if sentence in text]
    assert shown == [sentence for sentence in everything if sentence in warnings[: proof_view.SHOWN_REMARKS]]
    last = text.splitlines()[-1].strip()
    assert last == f"{len(everything) - len(shown)} more remarks in the report (--verbose prints them here too)."


def test_how_a_korean_report_is_had_in_english_is_shown() -> None:
    """Where the questions alone decided it: what the terminal prints is English in any case."""
    command = "seodang report runs/x --language en"
    out = Console(file=io.StringIO(), record=True)
    proof_view.show_end("runs/x/model", Path("runs/x/report.html"), 1.0, in_english=command, out=out)
    assert f"in English:\n  {command}\n" in out.export_text()


def test_paths_are_short_and_commands_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative below the current folder, from ~ below the home folder; in commands quoted, but for the ~."""
    here, home = tmp_path / "work here", tmp_path / "home"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    assert shown_path(here / "runs" / "a b") == "runs/a b"
    assert path_argument(here / "runs" / "a b") == "'runs/a b'"
    assert shown_path(home / ".cache") == "~/.cache"
    assert path_argument(home / "a b") == "~/'a b'"
    assert path_argument("~x") == "'~x'"
    assert shown_path("/elsewhere") == "/elsewhere"
    assert shown_path("org/model") == "org/model"


@pytest.mark.parametrize("width", [80, 100])
def test_the_tables_of_a_proof_have_a_line_for_each_row(width: int) -> None:
    """At 80 columns some columns are left to the report, so that neither heads nor names are broken."""
    proof, text = run_folder.run_proof(), printed("show_proof", run_folder.run_proof(), width=width)
    tables = text.split("\n\n")[1:4]
    assert [len(table.splitlines()) for table in tables] == [
        1 + len(rows) for rows in (proof.sources, proof.parts, proof.behaviour)
    ]
    assert ("retention" in tables[0], "chrF" in tables[2]) == (width == 100, width == 100)
