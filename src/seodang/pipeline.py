"""The line: one recipe in; a model, its chat template and the evidence of what changed out. Read this file first.

::

    recipe → sources → convert → split → audit → render → mask → mix → pack → train → prove → report

Split comes before mix, so that repeating a source cannot leak across splits; rendering comes before mix, because
shares are shares of tokens. Each step hands back what it kept, dropped and changed. Several processes (torchrun) walk
down the line together: `ranks` says who goes first, who writes, and what all wait for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seodang import distributed
from seodang.data.prepare import Prepared
from seodang.errors import RunError
from seodang.recipe import Recipe, Template, load_recipe
from seodang.run.folder import RECIPE, Run, open_run
from seodang.show import console, tables
from seodang.show.tables import show_memory
from seodang.stages.preparation import (
    fit_memory,
    load_base,
    make_engine,
    refuse_adapter,
    refuse_findings,
    set_up,
    show_data,
)
from seodang.stages.training import (
    begin_run,
    check_room,
    finish,
    measure,
    measure_base,
    phase,
    record_proof,
    train_model,
)

if TYPE_CHECKING:
    from transformers import TrainerCallback


def tune(
    recipe: Recipe, *, out: Path | None = None, resume: bool = False, callbacks: "Sequence[TrainerCallback]" = ()
) -> Run:
    """Run the whole line: prepare, measure the base, train, measure the tuned model, report.

    Args:
        out: the run's folder; by default runs/NAME.
        resume: go on with a run that was stopped or killed.
        callbacks: transformers' own, for what happens during training.

    Raises:
        SeodangError: the user's mistake, with the mend; what had begun to be measured can be resumed.
        KeyboardInterrupt: training was stopped by Ctrl-C, and a checkpoint saved.
    """
    distributed.join(recipe.model.device)
    with distributed.agreed():
        run = open_run(out or Path("runs") / recipe.name, recipe, resume=resume)
    clock: dict[str, float] = {}
    with phase(clock, "prepare"):
        with distributed.main_first():
            refuse_adapter(recipe)
            desk = set_up(recipe)
        with distributed.agreed():
            desk = fit_memory(desk)
            show_data(desk)
            refuse_findings(desk)
            show_memory(desk.memory, as_table=False)
    with phase(clock, "load"), distributed.agreed():
        model = load_base(desk, four_bit=desk.is_four_bit)
        check_room(run, desk, model)
        engine = make_engine(desk, model, trained=not run.is_trained)
    begin_run(run, recipe, desk, resume=resume)
    with phase(clock, "before"):
        before = measure_base(run, desk, model, engine)
    with phase(clock, "train"):
        model, losses = train_model(run, desk, model, engine, callbacks)
    with phase(clock, "after"):
        after = measure(desk, model, engine, "tuned", losses)
    with distributed.agreed():
        if distributed.is_main():
            record_proof(run, desk, before, after, base=recipe.model.path, tuned=str(run.model))
            finish(run, desk, model, clock)
    return run


def init(
    files: Sequence[str | Path] = (),
    *,
    domain: Sequence[str | Path] = (),
    general: Sequence[str | Path] = (),
    retention: Sequence[str | Path] = (),
    name: str | None = None,
    out: Path = Path("recipe.yaml"),
) -> Path:
    """Write a starter recipe from data files; roles that are not said are asked on a terminal, guessed elsewhere.

    Raises:
        SeodangError: a file that cannot be used, or a recipe that is there already.
    """
    from seodang.model.placement import memory_gb
    from seodang.starter.propose import propose, write_starter

    main, gpu = memory_gb()
    starter = propose(
        [str(path) for path in (*files, *domain, *general, *retention)],
        domain=[str(path) for path in domain],
        general=[str(path) for path in general],
        retention=[str(path) for path in retention],
        name=name,
        ask=console.choose if console.can_ask() else None,
        memory_gb=main,
        gpu_gb=gpu,
        out=out,
    )
    written = write_starter(starter)
    tables.show_starter(written, starter.yaml, starter.remarks)
    return written


def inspect(recipe: Recipe, *, out: Path | None = None) -> Prepared:
    """Everything that can be known before training; no weights are loaded.

    Args:
        out: a folder for the same files that a run would hold; none: print only.

    Raises:
        GateError: something in the data must not be trained on.
        SeodangError: the user's mistake, with the mend.
    """
    distributed.join(recipe.model.device)
    with distributed.agreed():
        run = open_run(out, recipe, resume=False) if out else None
    with distributed.main_first():
        desk = set_up(recipe)
    with distributed.agreed():
        desk = fit_memory(desk)
        show_data(desk)
        show_memory(desk.memory)
    if run:
        begin_run(run, recipe, desk)
    with distributed.agreed():
        refuse_findings(desk)
    return desk.prepared


def prove(
    tuned: str | Path, *, against: str | None = None, recipe: str | Path | None = None, out: Path | None = None
) -> Run:
    """Measure a model against its base, with the tuned model's own template.

    Args:
        tuned: a run's folder, or a model (folder, hub id, package).
        against: the base; by default the one the recipe names.
        recipe: what to measure; by default the run's own.
        out: where to write; by default the run's folder, or runs/NAME-proof for a model.

    Raises:
        SeodangError: the user's mistake, with the mend.
    """
    trained = Run(folder=Path(tuned))
    is_run = trained.exists
    if is_run and not trained.is_trained:
        raise RunError("its training has not ended", where=str(tuned), hint=f"seodang tune {tuned}/{RECIPE} --resume")
    if not is_run and recipe is None:
        raise RunError(
            "no run's folder, and no recipe says what to measure a model on",
            where=str(tuned),
            hint="give a run's folder such as runs/NAME, or a recipe by --recipe",
        )
    wanted = load_recipe(recipe) if recipe else trained.recipe()
    model_path = str(trained.model if is_run else tuned)
    base_path = against or wanted.model.path
    asked = wanted.model_copy(
        update={"model": wanted.model.model_copy(update={"path": model_path}), "template": Template()}
    )
    distributed.join(asked.model.device)
    with distributed.agreed():
        folder = out or Path("runs") / f"{wanted.name}-proof"
        run = trained if is_run and not out else open_run(folder, wanted, resume=False)
    clock: dict[str, float] = {}
    with phase(clock, "prepare"), distributed.main_first():
        desk = set_up(asked)
        show_data(desk)
    if run is not trained:
        begin_run(run, wanted, desk)
    measured = []
    for path, name in ((base_path, "base"), (model_path, "tuned")):
        with phase(clock, name):
            with distributed.agreed():
                model = load_base(desk, asked.model.model_copy(update={"path": path}))
            measured.append(measure(desk, model, make_engine(desk, model), "base" if name == "base" else "tuned"))
    before, after = measured
    with distributed.agreed():
        if distributed.is_main():
            record_proof(run, desk, before, after, base=base_path, tuned=model_path)
            finish(run, desk, model, clock)
    return run


def demo(*, out: Path | None = None) -> Run:
    """The shipped demo; each call gets a run folder of its own."""
    recipe = load_recipe("demo")
    folder, number = out or Path("runs") / recipe.name, 2
    while out is None and folder.exists():
        folder, number = Path("runs") / f"{recipe.name}-{number}", number + 1
    return tune(recipe, out=folder)
