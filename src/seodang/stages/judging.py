"""`seodang judge`: a run's answers against its base's, or another run's, by another model. Loads no weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from seodang.errors import RunError, SeodangError
from seodang.json_values import to_json
from seodang.judge.client import is_local
from seodang.judge.criteria import is_medical, names_of
from seodang.judge.judge import JudgePlan, judge, plan
from seodang.judge.judgement import Judgement
from seodang.judge.of_run import BASE, base_and_tuned, judgement_of, with_judgement
from seodang.judge.pairs import Pair, pair_answers
from seodang.proof.measured_rows import read_rows
from seodang.proof.proof import proof_of_run
from seodang.recipe import Judge, Recipe, load_recipe
from seodang.recipe_file import is_shipped_template
from seodang.run import record
from seodang.run.evidence import read_answers
from seodang.run.folder import JUDGEMENT, Run
from seodang.run.lock import acquire, guarded
from seodang.show.formatting import plural, visible
from seodang.show.judged import show_judgement
from seodang.show.report import report
from seodang.show.terminal import console, progress
from seodang.types import Answer
from seodang.user_paths import path_argument


@dataclass(frozen=True, kw_only=True, slots=True)
class _Comparison:
    """Two models' answers, and what is known of the two."""

    settings: Judge
    pairs: tuple[Pair, ...]
    unpaired: int  # answers of one of the two models alone
    ours: str
    theirs: str
    is_medical: bool
    models: Mapping[str, str]  # name → what it is
    file: str  # of the judgement, in the run's folder


@guarded()
def judge_run(
    run: str | Path, *, against: str = BASE, overrides: Sequence[str] = (), use_cache: bool = True
) -> Judgement:
    """Have the judge of a run's recipe compare its answers; write judgement.json, and the report again.

    Args:
        run: a run's folder, with answers.
        against: `base`, or the folder of another run that was asked the same questions.
        overrides: `KEY=VALUE` changes to the run's recipe, such as `judge.url=…`.
        use_cache: take replies that this judge gave earlier to the same requests.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
        JudgeError: the judge cannot be reached or refuses; the same call continues where it stopped.
    """
    opened = Run(folder=Path(run))
    compared = _comparison(opened, against, overrides)
    acquire(opened)
    asked = _plan(compared)
    _announce(asked, compared)
    total = len(asked.planted) + len(asked.pairs)
    with progress.watching("judging pairs, planted ones first", total) as advance:
        found = judge(
            compared.pairs,
            compared.settings,
            ours=compared.ours,
            theirs=compared.theirs,
            is_medical=compared.is_medical,
            models=compared.models,
            use_cache=use_cache,
            advance=advance,
        )
    opened.write_json(compared.file, to_json(found))
    if compared.file == JUDGEMENT:
        if opened.is_proven:
            judgement = judgement_of(opened, read_answers(opened))
            record.record_proof(opened, to_json(with_judgement(proof_of_run(opened), judgement)))
        report(opened.folder)
    show_judgement(found)
    return found


def plan_judgement(run: str | Path, *, against: str = BASE, overrides: Sequence[str] = ()) -> JudgePlan:
    """What `judge_run` with the same arguments would send, and about how many tokens. Sends nothing.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    compared = _comparison(Run(folder=Path(run)), against, overrides, flag=" --dry-run")
    asked = _plan(compared)
    prompts, out = asked.prompts(), console.get_console()
    _announce(asked, compared)
    out.print("nothing was sent (--dry-run); --json prints every prompt")
    for title, place in (("the first planted pair", 0), ("the first pair", 2 * len(asked.planted))):
        for prompt in prompts[place : place + 1]:
            out.print(f"\n{title}, as it would be sent:\n\n{prompt}", soft_wrap=True)
    return asked


def _plan(compared: _Comparison) -> JudgePlan:
    return plan(compared.pairs, compared.settings, is_medical=compared.is_medical, models=compared.models)


def _announce(asked: JudgePlan, compared: _Comparison) -> None:
    """Before anything is sent: what leaves the machine, and for where; then what is to be known of it."""
    settings, requests = asked.settings, len(asked.prompts())
    theirs = "its base" if compared.theirs == BASE else compared.theirs
    place = "stay on this machine" if is_local(settings.url) else "leave this machine"
    first = (
        f"texts {place}: questions, reference answers and the answers of {compared.ours} and {theirs} go to "
        f"{settings.model} at {settings.url}, in at most {plural(requests, 'request')} of about "
        f"{asked.about_tokens():,} tokens together"
    )
    console.get_console().print(Text(visible(first), style="yellow"), soft_wrap=True)
    alone = f"{plural(compared.unpaired, 'answer')} of one model alone are left out"
    for warning in (*asked.warnings, *([alone] if compared.unpaired else [])):
        console.show_note(warning)


def _comparison(run: Run, against: str, overrides: Sequence[str], *, flag: str = "") -> _Comparison:
    """What is compared.

    Args:
        flag: of the command, kept in the one that a hint proposes.

    Raises:
        SeodangError: a folder does not hold a run or answers, or its recipe names no judge.
    """
    recipe = run.recipe()
    if overrides:
        recipe = load_recipe(run.recipe_file, overrides)
    if recipe.judge is None:
        typed = path_argument(run.folder) + (f" --against {path_argument(Path(against))}" if against != BASE else "")
        hint = f"give them as in: seodang judge {typed}{flag} judge.url=http://127.0.0.1:8000 judge.model=NAME"
        raise SeodangError("the run's recipe names no judge: url and model are missing", where="judge", hint=hint)
    answers = _answers(run)
    clusters = {row.row_id: row.cluster for row in read_rows(run)}
    models = _models(recipe, run, "the base", "the tuned model")
    if against == BASE:
        theirs, file = BASE, JUDGEMENT
        pairs, unpaired = base_and_tuned(answers, clusters)
    else:
        other = Run(folder=Path(against))
        theirs = other.recipe().name
        file = JUDGEMENT.replace(".json", f"-{theirs}.json")
        tuned, others = ([one for one in some if one.model == "tuned"] for some in (answers, _answers(other)))
        pairs, unpaired = pair_answers(tuned, others, clusters)
        models |= _models(other.recipe(), other, "the other run's base", "the other run's model")
    return _Comparison(
        settings=recipe.judge,
        pairs=tuple(pairs),
        unpaired=unpaired,
        ours=recipe.name,
        theirs=theirs,
        is_medical=is_medical(*names_of(recipe)),
        models=models,
        file=file,
    )


def _answers(run: Run) -> list[Answer]:
    if not (answers := read_answers(run)):
        raise RunError("holds no answers", where=str(run.folder), hint=f"seodang prove {run.folder}")
    return answers


def _models(recipe: Recipe, run: Run, base: str, tuned: str) -> dict[str, str]:
    """Names of a run's models → what they are."""
    found = {recipe.model.path: base, recipe.name: tuned, run.folder.name: tuned}
    donor = recipe.template.borrow
    return found | ({donor: "the template's donor"} if donor and not is_shipped_template(donor) else {})
