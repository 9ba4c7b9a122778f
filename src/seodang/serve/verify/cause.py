"""From what differs to the likely cause. Pure: it knows neither server nor model."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, median_high

from seodang.serve.verify.answers import PENALTIES, Asked, Forced
from seodang.serve.verify.result import Cause

# The run's own weights are those of a quantized GGUF file, and so are the engine's: llama.cpp rounds what such weights
# are multiplied with to 8 bits. Measured on SmolLM2's Q4_1 file: 0.05 nats (root mean square), 0.001 on the same
# weights stored as float32; tokens 0.2 nats apart change places.
QUANTIZED = "quantized"
# Nats between two tokens that rounding alone can exchange, by the dtype of the run's weights. Measured: other kernels
# in float32 move a log-probability by 1e-5 to 1e-3, bfloat16 by some hundredths.
NEAR_TIE = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.3, QUANTIZED: 0.3}
# the same of served log-probabilities as a whole (root mean square)
SAME_NOISE = {"float32": 0.003, "float16": 0.02, "bfloat16": 0.06, QUANTIZED: 0.1}
# Nats at the first difference, and the share of tokens that are not the run's choice: half of all answers are below
# these under 16 bits, under 4 bits. An answer may hide a control token, so that no answer counts for all.
DTYPE_GAP, QUANTIZED_GAP = 0.5, 1.5
DTYPE_SHARE, QUANTIZED_SHARE = 0.2, 0.4
DTYPE_NOISE, QUANTIZED_NOISE = 0.06, 0.7  # nats, root mean square
EXPLAINED_SHARE = 0.03  # of an answer's tokens that may contradict a penalty that explains it
_FULL = {"float32": ("F32",), "float16": ("F16",), "bfloat16": ("BF16",)}  # llama.cpp's names of what is not quantized

_RESAVE = "serve the run's model folder, in the dtype that its config.json names"
_PROVE = "serve the run's own weights, or prove the quantized model before it is used"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All answers, compared."""

    asked: Sequence[Asked]
    forced: Sequence[Forced]  # of those that differ, or whose log-probabilities do; empty: the weights were not loaded
    dtype: str  # of the run's weights, or QUANTIZED
    penalty: float  # that is expected
    weights: str | None  # how the engine reports that it stores them
    is_drawn: bool  # the same question was answered in two ways


def causes(comparison: Comparison) -> list[Cause]:
    """Why answers differ, given that prompts do not; empty: they do not, or at near-ties only."""
    different = [asked for asked in comparison.asked if not asked.is_same]
    if not different:
        noise = _noise(comparison)
        is_same = noise is None or noise <= SAME_NOISE.get(comparison.dtype, SAME_NOISE["float32"])
        return [] if is_same else [_of_noise(noise or 0.0)]
    if _is_rounding(comparison):
        return []
    if comparison.is_drawn:
        hint = "make the server greedy at temperature 0: pass the request's temperature on, or correct its defaults"
        what = "the same question, asked twice at temperature 0, gets two different answers"
        return [Cause(name="sampling", what=what, hint=hint)]
    found = [cause for cause in (_base(different), _stop(comparison), _penalty(comparison)) if cause]
    if found:
        return found[:1]  # the first explains what the others would
    reported = _reported(comparison)
    if reported or not comparison.forced:
        return [reported or _by_text(different)]
    return [_of_weights(comparison)]


def is_near_tie(asked: Sequence[Asked], dtype: str) -> bool:
    """Whether the engine reports, of each answer that differs, two tokens between which rounding may choose."""
    tie = NEAR_TIE.get(dtype, NEAR_TIE["float32"])
    return all(each.is_same or (each.served_gap is not None and each.served_gap <= tie) for each in asked)


def _is_rounding(comparison: Comparison) -> bool:
    """Whether all answers diverge where rounding may choose."""
    if not comparison.forced:
        return is_near_tie(comparison.asked, comparison.dtype)
    return all(forced.first_gap <= _near_tie(comparison) for forced in comparison.forced)


def _near_tie(comparison: Comparison) -> float:
    return NEAR_TIE.get(comparison.dtype, NEAR_TIE["float32"])


def _base(different: Sequence[Asked]) -> Cause | None:
    """Answers that the base gave, where the run's folder has them."""
    known = [(asked.expected.base, asked.reply.text) for asked in different if asked.expected.base]
    same = sum(bool(served) and (base.startswith(served) or served.startswith(base)) for base, served in known)
    if not known or 2 * same <= len(known):
        return None
    what = f"{same} of {len(known)} answers that differ are those of the base model, before it was tuned"
    return Cause(name="another model", what=what, hint="serve the run's model folder, not its base")


def _stop(comparison: Comparison) -> Cause | None:
    """Answers that continue past their end, or end where the model would continue."""
    tie = _near_tie(comparison)
    missed = sum(
        forced.missed_stop is not None and forced.missed_stop > tie and max((*forced.gaps, 0.0)) <= tie
        for forced in comparison.forced
    )
    if not comparison.forced:
        missed = sum(
            asked.expected.stopped
            and len(asked.reply.text) > len(asked.expected.text)
            and asked.reply.text.startswith(asked.expected.text)
            for asked in comparison.asked
        )
    ends = sum(asked.expected.stopped for asked in comparison.asked)
    if missed and 2 * missed >= min(ends, len(comparison.asked)):
        what = f"answers that continue past the end of the turn: {missed} of {len(comparison.asked)}"
        hint = "let the server stop at eos_token_id of generation_config.json: the end of a turn is the first of them"
        return Cause(name="no stop token", what=what, hint=hint)
    early = sum(forced.early_stop is not None and forced.early_stop > DTYPE_GAP for forced in comparison.forced)
    if early and early == len(comparison.forced) and not any(forced.misfit_share for forced in comparison.forced):
        what = f"answers that end where the run's model would continue: {early}"
        return Cause(name="another stop", what=what, hint="remove stop strings and a smaller limit from the server")
    return None


def _penalty(comparison: Comparison) -> Cause | None:
    """A penalty that explains most answers, of which the expected one explains few."""
    different = [forced for forced in comparison.forced if forced.misfit_share > 0]
    if not different:
        return None
    explained = [
        sum(forced.misfits[number] <= EXPLAINED_SHARE * len(forced.gaps) for forced in different)
        for number in range(len(PENALTIES))
    ]
    most, now = max(explained), explained[_nearest(comparison.penalty)]
    misfits = [sum(forced.misfits[number] for forced in different) for number in range(len(PENALTIES))]
    fewest = min(count for count, enough in zip(misfits, explained, strict=True) if enough == most)
    best = [
        penalty
        for penalty, count, enough in zip(PENALTIES, misfits, explained, strict=True)
        if enough == most and count == fewest
    ]
    about = f"about {best[0]:g}" if best[-1] - best[0] <= 0.05 else f"{best[0]:g} to {best[-1]:g}"
    if 2 * most <= len(different) or 2 * now > most:
        return None
    what = f"{most} of {len(different)} answers are those of a repetition penalty of {about}"
    hint = f"set the server's repetition penalty to {comparison.penalty:g}, as generation_config.json says"
    return Cause(name="repetition penalty", what=what, hint=hint)


def _nearest(penalty: float) -> int:
    return min(range(len(PENALTIES)), key=lambda number: abs(PENALTIES[number] - penalty))


def _reported(comparison: Comparison) -> Cause | None:
    """What the engine itself reports of its weights."""
    kind = stored_as(comparison.weights)
    if not kind or comparison.dtype == QUANTIZED or kind in _FULL.get(comparison.dtype, ()):
        return None
    if kind in {name for names in _FULL.values() for name in names}:
        what = f"the engine holds the weights as {kind}; the run was proven in {comparison.dtype}"
        return None if kind == "F32" else Cause(name="other dtype", what=what, hint=_RESAVE)
    what = f"the engine reports its weights as {kind}; the run was proven in {comparison.dtype}"
    return Cause(name="quantization", what=what, hint=_PROVE)


def stored_as(weights: str | None) -> str:
    """Q4_1 of llama.cpp's "(guessed) mostly Q4_1", F32 of "all F32"."""
    words = (weights or "").upper().replace("(GUESSED)", "").split()
    return next((word for word in words if word not in ("ALL", "MOSTLY")), "")


def _noise(comparison: Comparison) -> float | None:
    known = [forced.noise for forced in comparison.forced if forced.noise is not None]
    return median_high(known) if known else None


def _of_noise(noise: float) -> Cause:
    what = f"served log-probabilities are {noise:.2g} nats away from the run's (root mean square)"
    if noise <= DTYPE_NOISE:
        return Cause(name="other dtype", what=what, hint=_RESAVE)
    if noise <= QUANTIZED_NOISE:
        return Cause(name="quantization", what=what, hint=_PROVE)
    return Cause(name="another model", what=what, hint="serve the run's model folder")


def _of_weights(comparison: Comparison) -> Cause:
    """The size of the differences separates roundings of the same weights from other weights."""
    different = [forced for forced in comparison.forced if forced.first_gap > 0]
    gap, share = (median(values) for values in zip(*((f.first_gap, f.misfit_share) for f in different), strict=True))
    what = f"answers diverge at tokens that the run's model finds {gap:.2g} nats less likely than its own (median); "
    what += f"{share:.0%} of tokens differ"
    noise = _noise(comparison)
    if noise is not None:
        return _of_noise(noise)
    if gap <= DTYPE_GAP and share <= DTYPE_SHARE and max(f.first_gap for f in different) <= 2 * DTYPE_GAP:
        return Cause(name="other dtype", what=what, hint=_RESAVE)
    if gap <= QUANTIZED_GAP and share <= QUANTIZED_SHARE:
        return Cause(name="quantization", what=what, hint=_PROVE)
    return Cause(name="another model", what=what, hint="serve the run's model folder: check the path, and /v1/models")


def _by_text(different: Sequence[Asked]) -> Cause:
    what = f"answers that differ: {len(different)}; the run's weights, which would show why, cannot be loaded"
    return Cause(name="another model", what=what, hint="verify where the run's model is, or serve its folder again")
