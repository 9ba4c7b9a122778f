"""Models between a run's base and its tuned model, without training: less gained, less lost.

`alpha_curve` measures several of them and recommends one; `blend` saves one as a run of its own.
"""

import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from seodang import distributed
from seodang.alpha.curve import ALPHAS, AlphaCurve, Measuring, make_curve, make_points, make_proof, recommended
from seodang.errors import RunError, SeodangError
from seodang.json_values import to_json
from seodang.model.interpolate import interpolate
from seodang.model.load import load_config, load_model, load_tokenizer
from seodang.model.placement import choose_placement
from seodang.model.save import describe, save_model
from seodang.pipeline import prepare
from seodang.run.evidence import read_manifest
from seodang.run.folder import ALPHA, COUNTS, DROPPED, FINDINGS, LENGTHS, SAMPLES, Run
from seodang.run.lock import guarded
from seodang.run.manifest import Blend
from seodang.run.record import write_manifest
from seodang.run.sealed import refuse_unsaved, seal_model
from seodang.run.start import ProofRecipes, claim, create, open_proof, open_run, proof_recipes
from seodang.show.alpha_view import show_curve, show_curve_cost
from seodang.show.report import report
from seodang.stages.blends import Blends
from seodang.stages.finish import check_files, check_inputs
from seodang.stages.proof_cost import curve_cost
from seodang.stages.proof_inputs import proof_inputs
from seodang.types import CurveCost

CARRIED = (COUNTS, DROPPED, FINDINGS, LENGTHS, SAMPLES)  # of the data, which is the same


@guarded()
def blend(run: str | Path, alpha: float, *, out: Path | None = None, trust_remote_code: bool = False) -> Run:
    """Save (1 − alpha) · base + alpha · tuned as a run that can be proved, served, chatted with and pushed.

    Its data, template and settings are those of the run; nothing of it is measured yet: `prove` does that.

    Args:
        run: the folder of a run that was trained.
        alpha: 0 is the base with the run's template, 1 the tuned model.
        out: the new run's folder; by default beside the run, with the alpha in its name.
        trust_remote_code: run Python code that comes with the model; what the run's own recipe says is ignored.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    if not (math.isfinite(alpha) and 0 <= alpha <= 1):
        raise SeodangError(f"expected a number from 0 to 1, got {alpha:g}", where="--alpha", hint="0.7, for example")
    tuned = Run(folder=Path(run))
    recipe = tuned.trusted_recipe(trust_remote_code=trust_remote_code)
    refuse_unsaved(tuned)
    manifest = read_manifest(tuned)
    if manifest is None:
        raise RunError("this run has no manifest", where=str(tuned.folder), hint=tuned.resume_command)
    named = recipe.model_copy(update={"name": f"{recipe.name}-alpha{alpha:g}"})
    blended = open_run(out or tuned.folder.with_name(f"{tuned.folder.name}-alpha{alpha:g}"), named, resume=False)
    spec = recipe.model.model_copy(update={"path": str(tuned.model), "revision": None})
    dtype = str(load_config(spec).dtype or "float32").removeprefix("torch.")
    placement = replace(choose_placement(spec.model_copy(update={"device": "cpu"})), dtype=dtype)
    model = load_model(spec, placement)
    interpolate(load_model(recipe.model, placement), model, alpha)
    tokenizer = load_tokenizer(str(tuned.model), trust_remote_code=trust_remote_code)
    claim(blended)
    save_model(
        model, tokenizer, blended.model,
        turn_end_id=None, base=tuned.model, on_written=lambda written: seal_model(blended, written),
    )  # fmt: skip
    for name in CARRIED:
        if (tuned.folder / name).is_file():
            shutil.copyfile(tuned.folder / name, blended.folder / name)
    facts = replace(describe(model, tokenizer), path=str(blended.model))
    write_manifest(blended, replace(manifest, name=named.name, model=facts, blend=Blend(run=str(run), alpha=alpha)))
    create(blended, named, resume=True)  # last: a folder with a recipe and no model is a run to be trained
    return blended


@guarded()
def alpha_curve(run: str | Path, *, trust_remote_code: bool = False) -> AlphaCurve:
    """Measure blends at five alphas on the rows that choose, recommend one, and prove it on the others: alpha.json.

    Recommended is the largest domain gain whose rise on general answers and on retention text stays within the recipe's
    tolerance. What was measured before, with the same weights and rows, is not measured again. Memory holds two models.

    Args:
        run: the folder of a run that was trained.
        trust_remote_code: run Python code that comes with the model; what the run's own recipe says is ignored.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it; what had been measured can be resumed.
    """
    recipes, blends = _open_blends(run, trust_remote_code=trust_remote_code)
    own = blends.run
    check_files(own)
    show_curve_cost(_cost(blends))
    wanted = recipes.wanted
    check_inputs(own, wanted, blends.inputs, of_rows=False)
    measuring = Measuring(
        roles={source.name: source.role for source in wanted.sources},
        trained=[source.name for source in wanted.sources if source.is_trained],
        tolerance=wanted.prove.tolerance,
        effective_shares=blends.inputs.held_out.effective_shares,
    )
    points = make_points({alpha: blends.choosing(alpha) for alpha in ALPHAS}, measuring)
    found, proof = recommended(points), None
    if found and found.alpha < 1:
        proof = make_proof(found.alpha, blends.proving(found.alpha), blends.proving(1.0), measuring)
    curve = make_curve(points, proof)
    with distributed.agreed():
        if distributed.is_main():
            own.write_json(ALPHA, to_json(curve))
            show_curve(curve, own.folder, report(own.folder))
    return curve


@guarded()
def plan_curve(run: str | Path, *, trust_remote_code: bool = False) -> CurveCost:
    """What `alpha_curve` would read, and about how long it would take, all alphas together. Loads no weights.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    _, blends = _open_blends(run, trust_remote_code=trust_remote_code)
    cost = _cost(blends)
    show_curve_cost(cost)
    return cost


def _open_blends(run: str | Path, *, trust_remote_code: bool) -> tuple[ProofRecipes, Blends]:
    Run(folder=Path(run)).recipe()  # there is one
    recipes = proof_recipes(run, against=None, recipe=None, trust_remote_code=trust_remote_code)
    distributed.join(recipes.wanted.model.device)
    with distributed.agreed():
        own = open_proof(recipes, None)
    ours, theirs = proof_inputs(recipes, partial(prepare, will_train=False), is_quick=False)
    if ours is not theirs:
        raise RunError(
            "base and tuned model have different tokenizers: nothing lies between the two",
            where=str(own.folder),
            hint="give a run whose model was tuned from its base",
        )
    return recipes, Blends(own, recipes, ours)


def _cost(blends: Blends) -> CurveCost:
    chosen, proven = blends.num_known("choose"), blends.num_known("prove")
    halves, base = blends.halves, blends.inputs.base
    return curve_cost(halves.choose, halves.prove, base, num_chosen=chosen, num_proven=proven)
