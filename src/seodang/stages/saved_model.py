"""The tuned model on disk: saved and sealed when training has ended, checked, and loaded to be measured."""

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from seodang import distributed
from seodang.data.template.renderer import Renderer
from seodang.errors import RunError
from seodang.model.load import base_folder, is_quantized, load_model, load_tokenizer, load_weights
from seodang.model.save import round_weights, save_model
from seodang.recipe import Recipe, Train
from seodang.run import evidence, record
from seodang.run.checkpoint_choice import Limit, choice_of
from seodang.run.checkpoints import newest_intact
from seodang.run.folder import ADAPTER, MODEL_FILES, Run
from seodang.run.sealed import adapter_damage, is_sealed, model_damage, seal_model
from seodang.show.terminal import console, progress
from seodang.stages.preflight import Base
from seodang.train.adapter import load_adapter, merge, save_adapter, unwrapped
from seodang.train.resources import available_memory
from seodang.types import Finding
from seodang.user_paths import path_argument, shown_path

if TYPE_CHECKING:
    from peft import PeftModel

MEASURED_SHARE = 1.25  # of the weights: what measuring takes of memory, beside the 4 bits that are there already


def check_saved(run: Run) -> None:
    """Settle, before a run is resumed, whether its saved model can be measured; else it will be saved again.

    Raises:
        RunError: it is not as it was saved, and neither the adapter nor a checkpoint has its weights; or it was not
            trained here.
    """
    with distributed.agreed():
        if not distributed.is_main():
            return
        refuse_blend(run)
        if run.is_trained and not is_sealed(run):
            console.show_note(f"{shown_path(run.model)} cannot be checked for damage: {MODEL_FILES} is missing")
        if not (damage := model_damage(run)):
            return
        checkpoint = newest_intact(run).folder
        if adapter_damage(run) and not checkpoint:
            raise RunError(
                f"the tuned model is damaged, and neither its adapter nor a checkpoint has its weights: {damage}",
                where=str(run.folder),
                hint="put it back as it was, or start a new run with --out",
            )
        kept = checkpoint.name if checkpoint and adapter_damage(run) else ADAPTER
        console.show_note(f"the tuned model is damaged ({damage}): it is saved again from {kept}")
        shutil.rmtree(run.model, ignore_errors=True)


def refuse_blend(run: Run) -> None:
    """Stop before a run is trained whose model lies between two others: it would be another model under its name.

    Raises:
        RunError: the manifest names a blend.
    """
    manifest = evidence.read_manifest(run)
    if manifest and manifest.blend:
        blend = manifest.blend
        raise RunError(
            f"this run is a blend of {blend.run} (alpha {blend.alpha:g}): there is no training to resume",
            where=str(run.folder),
            hint=f"measure it: seodang prove {path_argument(run.folder)}; or save it again: "
            f"seodang blend {path_argument(blend.run)} --alpha {blend.alpha:g} --out FOLDER",
        )


def has_kept_adapter(run: Run) -> bool:
    """Whether a tuned model that is gone can be made of its adapter, which is as it was saved."""
    is_main = distributed.is_main()
    found = is_main and is_sealed(run) and not run.is_trained and adapter_damage(run) is None
    return distributed.exchange(found)[0]


def record_end(
    run: Run,
    trainee: "PreTrainedModel | PeftModel",
    settings: Train,
    *,
    best_step: int | None,
    limits: Sequence[Limit] | None = None,
) -> None:
    """Record how training ended; save the adapter, if there is one.

    Args:
        limits: on rises, where they limited which checkpoint is kept.
    """
    with distributed.agreed():
        if distributed.is_main():
            choice = None
            if limits is not None:
                asked = evidence.base_answers(run) if settings.ask_every else ()
                choice = choice_of(evidence.read_events(run), limits, best_step, asked)
            record.record_training(run, best_step=best_step, best_by=settings.best_by, choice=choice)
    with distributed.agreed():
        if settings.adapter and distributed.is_main():
            save_adapter(trainee, run.adapter)


def save_tuned(
    run: Run, recipe: Recipe, trainee: "PreTrainedModel | PeftModel", renderer: Renderer, *, has_turns: bool
) -> None:
    """Save the whole model, an adapter merged into it.

    The model in memory becomes the one that is saved: merged and rounded in place.

    Args:
        has_turns: whether conversations were trained; else the tokenizer stays the base's, without a template that
            the weights do not know.
    """
    settings, spec = recipe.train, recipe.model
    dtype = None if recipe.save.dtype == "auto" else getattr(torch, recipe.save.dtype)
    with progress.waiting("saving the model"), distributed.agreed():
        if settings.adapter and (distributed.is_main() or not settings.is_four_bit):
            trainee = merge(trainee, run.adapter)
        if dtype and not is_quantized(unwrapped(trainee)):
            round_weights(trainee, dtype)
        if distributed.is_main():
            template = renderer.template
            code, revision = spec.trust_remote_code, spec.revision
            save_model(
                trainee,
                renderer.tokenizer
                if has_turns
                else load_tokenizer(spec.path, revision=revision, trust_remote_code=code),
                run.model,
                turn_end_id=template.turn_end_id if has_turns else None,
                call_end_id=template.call_end_id if has_turns else None,
                base=base_folder(spec),
                system=renderer.system if has_turns else None,
                sampling=recipe.ask.generate,
                dtype=dtype,
                on_written=lambda written: seal_model(run, written),
            )


def load_saved(run: Run, base: Base, model: PreTrainedModel, *, four_bit: bool) -> PreTrainedModel:
    """The tuned model as it was saved, to be measured; by default in the base that is loaded.

    What was trained beside 4 bits is saved in whole weights, which are loaded where they fit. Elsewhere the adapter
    stands beside the 4 bits, and the run's findings say so.
    """
    distributed.wait_for(run.model / "config.json")
    if not four_bit:
        load_weights(model, run.model)
        return model
    if base.placement.device.startswith("cuda"):
        torch.cuda.empty_cache()  # what training no longer needs
    needed = MEASURED_SHARE * model.num_parameters() * getattr(torch, base.placement.dtype).itemsize
    if all(distributed.exchange(needed < available_memory(base.placement.device))):
        spec = base.spec.model_copy(update={"path": str(run.model), "revision": None})
        return load_model(spec, base.placement)
    finding = Finding(
        check="measured in 4 bits",
        severity="warn",
        where="tuned model",
        what="the tuned model was measured as its adapter beside the base in 4 bits: the saved weights do not fit here",
        hint="run `seodang prove` where they fit",
    )
    with distributed.agreed():
        if distributed.is_main():
            record.add_finding(run, finding)
            console.show_note(f"{finding.what}; {finding.hint}")
    if not hasattr(model, "peft_config"):
        load_adapter(model, run.adapter)
    return model
