"""A model between a run's base and its tuned model, as a run of its own: less gained, less lost, without training."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

from seodang.errors import RunError, SeodangError
from seodang.model.interpolate import interpolate
from seodang.model.load import describe, load_config, load_model, load_tokenizer, save_model
from seodang.model.placement import choose_placement
from seodang.run.evidence import read_manifest
from seodang.run.folder import COUNTS, DROPPED, FINDINGS, LENGTHS, SAMPLES, Run
from seodang.run.lock import guarded
from seodang.run.manifest import Blend
from seodang.run.record import write_manifest
from seodang.run.sealed import refuse_unsaved, seal_model
from seodang.run.start import create, open_run

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
    create(blended, named)
    for name in CARRIED:
        if (tuned.folder / name).is_file():
            shutil.copyfile(tuned.folder / name, blended.folder / name)
    facts = replace(describe(model, tokenizer), path=str(blended.model))
    write_manifest(blended, replace(manifest, name=named.name, model=facts, blend=Blend(run=str(run), alpha=alpha)))
    save_model(
        model, tokenizer, blended.model,
        turn_end_id=None, base=tuned.model, on_written=lambda written: seal_model(blended, written),
    )  # fmt: skip
    return blended
