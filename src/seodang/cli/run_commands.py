"""The commands that make runs and read them: from data to a report."""

import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seodang import distributed
from seodang.cli.app import app
from seodang.cli.options import (
    GateOption,
    JsonOption,
    LanguageOption,
    OutOption,
    OverridesArg,
    RecipeArg,
    TrustOption,
    VerboseOption,
    resumed_by_repeating,
    show_without_dry_run,
    without_dry_run,
)

if TYPE_CHECKING:
    from seodang.proof.seeds import SeedsProof
    from seodang.run.folder import Run


def _role(name: str, holds: str) -> Any:
    return typer.Option(f"--{name}", metavar="FILE|FOLDER", help=f"A file or folder of {holds}; may be repeated.")


@app.command()
def demo(
    overrides: OverridesArg = None,
    out: OutOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows, questions and steps: two minutes.")] = False,
    _: VerboseOption = False,
) -> None:
    """Run the whole pipeline on a packaged model and sample data, offline."""
    from seodang.pipeline import demo
    from seodang.show.terminal.next_commands import after_demo, show_next

    found = demo(overrides or (), out=out, is_quick=quick)
    show_next(after_demo(found, is_quick=quick))


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
    from seodang.show.terminal.next_commands import after_init, show_next

    written = init(
        files or (), domain=domain or (), general=general or (), retention=retention or (), hub=hub or (),
        model=model, template=template, name=name, out=out, dry_run=dry_run,
    )  # fmt: skip
    if dry_run:
        show_without_dry_run("write it")
        return
    show_next(after_init(written))


@app.command()
def inspect(recipe: RecipeArg, overrides: OverridesArg = None, out: OutOption = None, _: VerboseOption = False) -> None:
    """Show everything that can be known before training, without training."""
    from seodang.pipeline import inspect
    from seodang.recipe import load_recipe
    from seodang.show.terminal.next_commands import show_next, to_tune

    checked = load_recipe(recipe, overrides or ())
    inspect(checked, out=out)
    show_next(to_tune(["tune", recipe, *(overrides or ())], Path("runs") / checked.name))


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
    from seodang.run.folder import run_at
    from seodang.show.terminal.next_commands import show_next, to_tune

    if resume and out is None and (run := run_at(recipe)):
        recipe, out = str(run.recipe_file), run.folder
    wanted = [f"report.language={language}"] if language else []
    checked = load_recipe(recipe, [*(overrides or ()), *wanted])
    if dry_run:
        inspect(checked)
        if resume or seeds > 1:
            show_without_dry_run("train, measure and report")
        else:
            show_next(to_tune(without_dry_run(), out or Path("runs") / checked.name))
    elif seeds > 1:
        try:
            _proven(lambda: tune_seeds(checked, seeds, out=out, resume=resume), gate=gate, as_json=as_json)
        except KeyboardInterrupt as stopped:
            raise resumed_by_repeating(stopped) from None
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
        show_without_dry_run("measure")
        return
    given |= {"out": out, "is_quick": quick, "use_cache": cache, "language": language}
    _proven(lambda: prove(runs[0], **given), gate=gate, as_json=as_json, model=runs[0])


def _proven(work: "Callable[[], Run | SeedsProof]", *, gate: bool, as_json: bool, model: str | None = None) -> None:
    """Do the work and hold the gate; with `as_json` the proof is all that goes to stdout, the rest goes to stderr."""
    from seodang.pipeline import hold_gate, proof_as_json
    from seodang.show.terminal.next_commands import after_proof, show_next

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        found = work()
        show_next(after_proof(found, model))
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
    from seodang.show.report import in_english, report
    from seodang.show.several_runs import report_runs
    from seodang.show.terminal.console import show_line
    from seodang.show.terminal.proof_view import korean_note
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
        if sys.stdout.isatty() and len(runs) == 1 and language is None and (command := in_english(runs[0])):
            show_line(korean_note(command))


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
    if dry_run and not as_json:
        show_without_dry_run("send them to the judge")
    if not dry_run and judgement.verdict == "none":
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
    from seodang.show.terminal.next_commands import after_blend, show_next

    if alpha is None:
        if out:
            raise typer.BadParameter("--out is for the run that --alpha saves; the curve is written to the run itself")
        (plan_curve if dry_run else alpha_curve)(run, trust_remote_code=trust_remote_code)
        if dry_run:
            show_without_dry_run("measure")
        return
    if dry_run:
        raise typer.BadParameter("--dry-run is for measuring: saving one alpha measures nothing")
    made = blend(run, alpha, out=out, trust_remote_code=trust_remote_code)
    typer.echo(f"{made.folder}\nnot measured yet")
    show_next(after_blend(made))
