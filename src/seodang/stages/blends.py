"""Blends of a run's base and tuned model, each measured by one pass over held-out rows, as the proof measures them.

Memory holds two models at most: the base, and the tuned one, which becomes a blend in place and is read again for the
next alpha.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from seodang import distributed
from seodang.alpha.curve import ALPHAS, Rows
from seodang.alpha.measured_point import MeasuredPoint, keep_point, kept_point, read_point
from seodang.model.engine.engine import Engine
from seodang.model.interpolate import interpolate
from seodang.model.load import load_model
from seodang.model.save import round_weights, weights_hash
from seodang.proof.contrast import SourceContrasts
from seodang.proof.evaluate import check_finite
from seodang.proof.measured_rows import Half
from seodang.proof.row_losses import HeldOutSource, measure_source, measured_row, metric_of, scored_hash
from seodang.run.base_measurement import MeasurementSettings, RowLoss, measurement_settings
from seodang.run.folder import Run
from seodang.run.start import ProofRecipes
from seodang.show.terminal import progress
from seodang.stages import preflight
from seodang.stages.measure import EvaluationSet
from seodang.stages.proof_inputs import ProofInputs

Losses = Mapping[str, Sequence[RowLoss]]  # source → its rows


class Halves(NamedTuple):
    """The rows of an evaluation set, losses alone."""

    choose: EvaluationSet
    prove: EvaluationSet  # those that do not choose as well

    def of(self, half: Half) -> EvaluationSet:
        """The rows of one half."""
        return self.prove if half == "prove" else self.choose


def halves_of(held_out: EvaluationSet) -> Halves:
    """Rows that choose, and rows that prove alone; sources that have none are left out."""

    def some(*, choosing: bool) -> EvaluationSet:
        parts = [_part(source, [row.chooses == choosing for row in source.rows]) for source in held_out.sources]
        return replace(
            held_out, sources=[part for part in parts if part.rows], questions=(), has_trained_template=True
        )  # fmt: skip

    return Halves(choose=some(choosing=True), prove=some(choosing=False))


def _part(source: HeldOutSource, is_in: Sequence[bool]) -> HeldOutSource:
    numbers = np.flatnonzero(is_in).tolist()
    return replace(
        source,
        dataset=source.dataset if all(is_in) else source.dataset.select(numbers),
        rows=[source.rows[number] for number in numbers],
        contrasts=SourceContrasts(),
        kl_rows=(),
    )


class Blends:
    """What lies between base and tuned model, measured where it was not measured before."""

    def __init__(self, run: Run, recipes: ProofRecipes, inputs: ProofInputs) -> None:
        """Args:
        run: its folder keeps what each alpha measured.
        inputs: of the tuned model.
        """
        self.run, self.recipes, self.inputs = run, recipes, inputs
        self.halves = halves_of(inputs.held_out)
        self._engine: Engine | None = None
        self._fresh: PreTrainedModel | None = None  # the tuned model, not yet blended

    def choosing(self, alpha: float) -> Rows:
        """Base against blend on the rows that choose."""
        return self._rows(alpha, "choose")

    def proving(self, alpha: float) -> Rows:
        """Base against blend on the rows that prove; of a source with few clusters, those are the same."""
        shared = {
            name: own for name, own in self._rows(alpha, "choose").items() if any(row.half == "both" for row in own)
        }
        return shared | dict(self._rows(alpha, "prove"))

    def num_known(self, half: Half) -> int:
        """How many alphas were measured before, if base and tuned model are those of then. Loads no weights."""
        if not self.halves.of(half).sources:
            return 0
        now = self._settings_with("", half)
        before = [read_point(self.run, alpha, half) for alpha in ALPHAS]
        return sum(point is not None and replace(point.settings, weights="") == now for point in before)

    def _rows(self, alpha: float, half: Half) -> Rows:
        base, blend = self._losses(0.0, half), self._losses(alpha, half)
        return {
            source.name: [
                measured_row(source, row, *losses)
                for row, *losses in zip(source.rows, base[source.name], blend[source.name], strict=True)
            ]
            for source in self.halves.of(half).sources
        }

    def _losses(self, alpha: float, half: Half) -> Losses:
        held_out = self.halves.of(half)
        if not held_out.sources:
            return {}
        settings = self._settings[half]
        known = kept_point(self.run, alpha, half, settings) if distributed.is_main() else None
        if known := distributed.exchange(known)[0]:
            return known.losses
        found = self._measure(alpha, held_out)
        point = MeasuredPoint(settings=settings, alpha=alpha, half=half, losses=found)
        with distributed.agreed():
            if distributed.is_main():
                keep_point(self.run, point)
        return found

    def _measure(self, alpha: float, held_out: EvaluationSet) -> dict[str, tuple[RowLoss, ...]]:
        model, engine = self._at(alpha)
        found, metrics = {}, {}
        with progress.counting(
            f"alpha {alpha:g}: held-out examples", sum(len(one.rows) for one in held_out.sources)
        ) as on:
            for source in held_out.sources:
                rows, _ = measure_source(
                    model, engine, source, pack_tokens=held_out.pack_tokens, choose_form=False, on_rows=on
                )
                found[source.name] = tuple(row.loss for row in rows)
                metrics[source.name] = metric_of(source, rows, choosing=source.rows[0].chooses)
        with distributed.agreed():
            check_finite(metrics, f"alpha {alpha:g}")
        return found

    def _at(self, alpha: float) -> tuple[PreTrainedModel, Engine]:
        model, engine = self._tuned()
        self._fresh = None  # it is blended in place
        interpolate(self._base, model, alpha)
        if self._is_rounded:
            round_weights(model, self._saved_dtype)
        return model, engine

    def _tuned(self) -> tuple[PreTrainedModel, Engine]:
        base, settings = self.inputs.base, self.recipes.wanted.train
        if self._engine is None:
            self._fresh, self._engine = preflight.load_measured(self.inputs, base.spec.path, settings)
        if self._fresh is None:
            with distributed.agreed():
                self._fresh = preflight.load_base(base, self.inputs.renderer, seed=settings.seed)
        return self._fresh, self._engine

    @cached_property
    def _base(self) -> PreTrainedModel:
        """In main memory, and without rows for what tuning added to the vocabulary: those are the tuned model's."""
        with distributed.agreed():
            spec = self.recipes.of_base.model
            model = load_model(spec, replace(self.inputs.base.placement, device="cpu"))
            if self._is_rounded:
                round_weights(model, self._saved_dtype)
        return model

    @cached_property
    def _settings(self) -> dict[Half, MeasurementSettings]:
        """What the losses of each half depend on."""
        weights = f"{weights_hash(self._base)} {weights_hash(self._tuned()[0])}"
        return {half: self._settings_with(weights, half) for half in ("choose", "prove")}

    def _settings_with(self, weights: str, half: Half) -> MeasurementSettings:
        rows = scored_hash(self.halves.of(half).sources, has_trained_template=True)
        return measurement_settings(self.inputs.base.placement, (), four_bit=False, weights=weights, rows=rows)

    @property
    def _saved_dtype(self) -> torch.dtype:
        """Of the tuned model's files, in which a blend is saved."""
        dtype: torch.dtype = self.inputs.base.config.dtype or torch.float32
        return dtype

    @property
    def _is_rounded(self) -> bool:
        """Whether saving a blend rounds what is measured, so that it is rounded before."""
        held: torch.dtype = getattr(torch, self.inputs.base.placement.dtype)
        return self._saved_dtype.itemsize < held.itemsize
