"""What two models are compared on, before their weights are loaded: the same rows, as each tokenizer reads them."""

from dataclasses import dataclass
from typing import Protocol

from seodang import distributed
from seodang.recipe import Recipe
from seodang.run.start import ProofRecipes
from seodang.show.terminal import console
from seodang.show.terminal.verbosity import is_verbose
from seodang.stages import preflight
from seodang.stages.measure import EvaluationSet, make_evaluation_set
from seodang.stages.preflight import Inputs
from seodang.stages.preparation import show_data
from seodang.train.setup import pack_tokens
from seodang.types import Placement


class Prepare(Protocol):
    """`pipeline.prepare` for a recipe that is not trained by."""

    def __call__(self, recipe: Recipe, placement: Placement, *, is_known: bool) -> Inputs: ...


@dataclass(frozen=True, kw_only=True)
class ProofInputs(Inputs):
    """What one model is measured with."""

    held_out: EvaluationSet


def proof_inputs(recipes: ProofRecipes, prepare: Prepare, *, is_quick: bool) -> tuple[ProofInputs, ProofInputs]:
    """What the tuned model is measured with, and its base: the same value where their tokenizers are the same.

    A base with another tokenizer is asked in a template of its own, and losses alone are measured of both.

    Args:
        prepare: everything that comes before a model's weights.
        is_quick: a part of the rows and questions.
    """
    tuned = _read(recipes, recipes.of_tuned, prepare, is_known=recipes.is_own)
    if preflight.reads_alike(tuned.base, recipes.base, tuned.prepared):
        inputs = _inputs(recipes, tuned, is_quick=is_quick)
        return inputs, inputs
    console.show_note(
        "base and tuned model have different tokenizers: each reads the rows with its own, and losses alone are "
        "compared, in bits per byte"
    )
    base = _read(recipes, recipes.of_base, prepare, is_known=False)
    ours, theirs = (_inputs(recipes, one, is_quick=is_quick, losses_alone=True) for one in (tuned, base))
    return ours, theirs


def _read(recipes: ProofRecipes, recipe: Recipe, prepare: Prepare, *, is_known: bool) -> Inputs:
    """Rows as one model reads them; plan and rows that are known are shown with --verbose alone."""
    with distributed.main_first():
        placement = preflight.place(recipe.model, recipes.wanted.train, will_train=False)
        found = prepare(recipe, placement, is_known=is_known)
        if not is_known or is_verbose():
            show_data(found.prepared, found.renderer, will_train=False)
    return found


def _inputs(recipes: ProofRecipes, read: Inputs, *, is_quick: bool, losses_alone: bool = False) -> ProofInputs:
    held_out = make_evaluation_set(
        recipes.wanted,
        read,
        pack_tokens(recipes.wanted.train, read.base.placement.device),
        has_trained_template=preflight.has_template(recipes.of_tuned.model, recipes.base),
        is_quick=is_quick,
        losses_alone=losses_alone,
    )
    return ProofInputs(base=read.base, renderer=read.renderer, prepared=read.prepared, held_out=held_out)
