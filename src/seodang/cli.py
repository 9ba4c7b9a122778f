"""The command line: parse, call, print, exit code. Nothing else; everything it does can be done from Python."""

import io
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from seodang import distributed
from seodang.__version__ import __version__
from seodang.errors import SeodangError
from seodang.show.terminal.verbosity import set_verbose, silence_libraries

if TYPE_CHECKING:
    from seodang.proof.seeds import SeedsProof
    from seodang.run.folder import Run

CRASHED = 70  # exit code of a fault in seodang itself (EX_SOFTWARE of sysexits.h)

app = typer.Typer(
    name="seodang",
    help="Teach a base language model to answer in a field, and prove what that cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeArg = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe that ships: demo.")
]
OverridesArg = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe: train.steps=20")
]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where to write. [default: runs/NAME]")]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code that comes with the model. A run's recipe is not enough."
    ),
]


GateOption = Annotated[
    bool,
    typer.Option("--gate", help="Exit code 1 unless the domain improved with nothing lost beyond tolerance."),
]
LanguageOption = Annotated[
    Literal["auto", "en", "ko"] | None,
    typer.Option("--language", help="Language of verdict and report; by default the recipe's."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the proof as JSON to stdout, the rest to stderr.")]


VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=set_verbose, help="Print every setting, stage, row, question and remark."),
]


def _role(name: str, holds: str) -> Any:
    return typer.Option(f"--{name}", metavar="FILE|FOLDER", help=f"A file or folder of {holds}; may be repeated.")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"seodang {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def demo(
    overrides: OverridesArg = None,
    out: OutOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows, questions and steps: two minutes.")] = False,
    _: VerboseOption = False,
) -> None:
    """Run the whole pipeline on a packaged model and sample data, offline."""
    from seodang.pipeline import demo

    demo(overrides or (), out=out, is_quick=quick)


@app.command()
def init(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE|FOLDER...", help="Your data.")] = None,
    domain: Annotated[list[Path] | None, _role("domain", "the field's questions and answers")] = None,
    general: Annotated[list[Path] | None, _role("general", "general questions and answers")] = None,
    retention: Annotated[list[Path] | None, _role("retention", "plain text that must not be forgotten")] = None,
    hub: Annotated[
        list[str] | None, typer.Option("--hub", metavar="ID", help="A data set on the hub; with a role: hub:ID.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The base model. [default: one that fits this machine]"),
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", metavar="NAME", help="A chat template. [default: what the model needs]")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Run name.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The recipe to write.")] = Path("recipe.yaml"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe, write nothing.")] = False,
) -> None:
    """Write a starter recipe from your files, folders or archives."""
    from seodang.pipeline import init

    init(
        files or (), domain=domain or (), general=general or (), retention=retention or (), hub=hub or (),
        model=model, template=template, name=name, out=out, dry_run=dry_run,
    )  # fmt: skip


@app.command()
def inspect(recipe: RecipeArg, overrides: OverridesArg = None, out: OutOption = None, _: VerboseOption = False) -> None:
    """Show everything that can be known before training, without training."""
    from seodang.pipeline import inspect
    from seodang.recipe import load_recipe

    inspect(load_recipe(recipe, overrides or ()), out=out)


@app.command()
def tune(
    recipe: RecipeArg,
    overrides: OverridesArg = None,
    out: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a run that was stopped or killed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Prepare and print everything, train nothing.")] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Train with this many seeds, as runs NAME-s1, NAME-s2 …")
    ] = 1,
    gate: GateOption = False,
    language: LanguageOption = None,
    as_json: JsonOption = False,
    _: VerboseOption = False,
) -> None:
    """Train, measure before and after, report."""
    from seodang.pipeline import inspect, tune, tune_seeds
    from seodang.recipe import load_recipe

    wanted = [f"report.language={language}"] if language else []
    checked = load_recipe(recipe, [*(overrides or ()), *wanted])
    if dry_run:
        inspect(checked, out=out)
    elif seeds > 1:
        _proven(lambda: tune_seeds(checked, seeds, out=out, resume=resume), gate=gate, as_json=as_json)
    else:
        _proven(lambda: tune(checked, out=out, resume=resume), gate=gate, as_json=as_json)


@app.command()
def prove(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN|MODEL...", help="A run's folder, or a model; several runs are evaluated together."),
    ],
    against: Annotated[
        str | None, typer.Option("--against", metavar="MODEL", help="Its base. [default: the run's]")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="RECIPE", help="What to measure. [default: the run's]")
    ] = None,
    out: OutOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure fewer rows and ask fewer questions.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be read and how long it would take; measure nothing.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Reuse what was measured of the base in an earlier run.")
    ] = True,
    gate: GateOption = False,
    language: LanguageOption = None,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
    _: VerboseOption = False,
) -> None:
    """Measure a model against its base, or several runs of one recipe against each other."""
    from seodang.pipeline import plan_proof, prove, prove_seeds

    if len(runs) > 1:
        if against or recipe or out or quick or dry_run or language:
            raise typer.BadParameter("several runs are compared as they were proven: only --gate and --json apply")
        _proven(lambda: prove_seeds([Path(run) for run in runs]), gate=gate, as_json=as_json)
        return
    given: dict[str, Any] = {"against": against, "recipe": recipe, "trust_remote_code": trust_remote_code}
    if dry_run:
        plan_proof(runs[0], **given, is_quick=quick)
        return
    given |= {"out": out, "is_quick": quick, "use_cache": cache, "language": language}
    _proven(lambda: prove(runs[0], **given), gate=gate, as_json=as_json)


def _proven(work: "Callable[[], Run | SeedsProof]", *, gate: bool, as_json: bool) -> None:
    """Do the work and hold the gate; with `as_json` the proof is all that goes to stdout, the rest goes to stderr."""
    from seodang.pipeline import hold_gate, proof_as_json

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        found = work()
    if as_json and distributed.is_main():
        typer.echo(proof_as_json(found))
    if gate:
        hold_gate(found)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run's folder; several runs are compared in one page.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The page that compares runs. [default: compared-NAME-NAME.html, here]"
        ),
    ] = None,
    language: LanguageOption = None,
    is_watched: Annotated[
        bool, typer.Option("--watch", help="Serve the report on this machine, and refresh it during the run.")
    ] = False,
    port: Annotated[int | None, typer.Option("--port", help="Port for --watch. [default: a free one]")] = None,
) -> None:
    """Write a run's report again, or one page that compares several runs, from their files."""
    from seodang.show.report import report
    from seodang.show.several_runs import report_runs
    from seodang.show.watch import watch

    if out and len(runs) == 1:
        raise typer.BadParameter("--out is for several runs: the report of one is written into its folder")
    if is_watched and len(runs) > 1:
        raise typer.BadParameter("--watch shows one run")
    if port is not None and not is_watched:
        raise typer.BadParameter("--port is for --watch: without it nothing is served")
    if is_watched:
        watch(runs[0], port=port or 0, language=language)
        return
    if distributed.is_main():  # one page, whatever launched this
        page = report_runs(runs, out=out, language=language) if len(runs) > 1 else report(runs[0], language)
        typer.echo(page)


@app.command()
def judge(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, which holds answers.")],
    overrides: OverridesArg = None,
    against: Annotated[
        str,
        typer.Option("--against", metavar="RUN|base", help="Whose answers are compared: another run's, or the base's."),
    ] = "base",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent and about how many tokens; send nothing.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Reuse what the judge replied to the same requests earlier.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the judgement (of a dry run: the requests) as JSON to stdout.")
    ] = False,
) -> None:
    """Have another model compare the answers with the base's or another run's; exit code 1 without a verdict.

    The texts go to the server that the recipe's judge section names. Its API key is taken from the environment variable
    that judge.api_key_env names.
    """
    from seodang.json_values import json_text, to_json
    from seodang.stages.judging import judge_run, plan_judgement

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        if dry_run:
            found = {"prompts": plan_judgement(run, against=against, overrides=overrides or ()).prompts()}
        else:
            judgement = judge_run(run, against=against, overrides=overrides or (), use_cache=cache)
            found = to_json(judgement)
    if as_json:
        typer.echo(json_text(found, where="judge", indent=1))
    if not dry_run and judgement.verdict == "none":
        raise typer.Exit(1)


def _refuse(error: SeodangError) -> NoReturn:
    from seodang.show.terminal.console import show_error

    with distributed.ending(error) as is_reported_here:
        if is_reported_here:
            show_error(error)
    distributed.part_for_exit(error.exit_code, error)
    sys.exit(error.exit_code)


def _report_bug(error: Exception) -> NoReturn:
    """One line instead of a traceback, which goes into a log file: what nobody foresaw is our fault, not the user's."""
    from seodang.show.crash_log import write_crash_log
    from seodang.show.terminal.console import show_crash

    with distributed.ending(error) as is_reported_here:
        if is_reported_here:
            show_crash(error, write_crash_log(error))
    distributed.part_for_exit(CRASHED, error)
    sys.exit(CRASHED)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run's folder, or a model.")],
    base: Annotated[bool, typer.Option("--base", help="Talk to the run's base model.")] = False,
    both: Annotated[bool, typer.Option("--both", help="Ask base and tuned model in turn.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Talk to a model in the terminal."""
    from seodang.serve.chat import chat

    chat(model, base=base, both=both, trust_remote_code=trust_remote_code)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run's folder, a model, or a GGUF file.")],
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="auto, vllm, sglang, llama.cpp or transformers.")
    ] = "auto",
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 8000,
    gguf: Annotated[
        Path | None, typer.Option("--gguf", metavar="FILE", help="The model's weights as a GGUF file, for llama.cpp.")
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Serve a model over HTTP, OpenAI-compatible, by an existing engine.

    The API key that clients must send is taken from the environment variable SEODANG_API_KEY.
    """
    from seodang.serve.server import serve

    serve(model, engine=engine, host=host, port=port, gguf=gguf, trust_remote_code=trust_remote_code)


@app.command()
def verify(
    target: Annotated[str, typer.Argument(metavar="URL|FOLDER", help="An OpenAI-compatible server, or a folder.")],
    run: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="What was proven: a run's folder, or a model.")],
    questions: Annotated[int, typer.Option("--questions", min=1, help="Questions that are answered greedily.")] = 8,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Name of the served model. [default: the run's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Check whether what is served is what was proven; exit code 1 if it is different.

    The server's API key is taken from the environment variable SEODANG_API_KEY.
    """
    from seodang.json_values import json_text, to_json
    from seodang.serve.verify.verify import show_verification, verify

    found = verify(target, run, questions=questions, model=model, trust_remote_code=trust_remote_code)
    if as_json:
        typer.echo(json_text(to_json(found), where="verify", indent=1))
    else:
        show_verification(found)
    if found.verdict == "different":
        raise typer.Exit(1)


@app.command()
def blend(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha",
            help="0: the base; 1: the tuned model; between: both. Without it, five alphas are measured and one is "
            "recommended.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where to write; by default beside the run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what measuring would take; measure nothing.")
    ] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Save a model between base and tuned model as a run, or measure which one to save: less gained, less lost."""
    from seodang.blending import alpha_curve, blend, plan_curve

    if alpha is None:
        if out:
            raise typer.BadParameter("--out is for the run that --alpha saves; the curve is written to the run itself")
        (plan_curve if dry_run else alpha_curve)(run, trust_remote_code=trust_remote_code)
        return
    if dry_run:
        raise typer.BadParameter("--dry-run is for measuring: saving one alpha measures nothing")
    made = blend(run, alpha, out=out, trust_remote_code=trust_remote_code)
    typer.echo(f"{made.folder}\nnot measured yet: seodang prove {made.folder}")


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="On the hub: NAME or OWNER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="Push the adapter instead of the merged model.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go and show the card.")] = False,
) -> None:
    """Upload model, tokenizer, template and a model card to the hub."""
    from seodang.publish.hub import push, show_push

    show_push(push(run, repo, private=private, adapter=adapter, dry_run=dry_run))


def _end_as_interrupted() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does; a signal that is ignored (nohup) stays ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def main() -> None:
    """The entry point: seodang's own errors become one message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where Korean cannot be written it becomes ?, and nothing stops
    _end_as_interrupted()
    silence_libraries()
    try:
        app()
    except SeodangError as error:
        _refuse(error)
    except Exception as error:
        from seodang.run import disk

        if explained := disk.explain(error):  # at any moment; whatever else it may be is our fault
            _refuse(explained)
        _report_bug(error)
    except SystemExit as ended:
        if ended.code == 130 and distributed.is_main():  # Ctrl-C, which typer ends without a word
            typer.echo("interrupted", err=True)
        distributed.part_for_exit(int(ended.code or 0))
        raise
