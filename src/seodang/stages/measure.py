"""Base and tuned model, measured alike: losses on every holdout, and answers to every question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from datasets import Dataset
from transformers import PreTrainedModel

from seodang import distributed
from seodang.data.prepare import Prepared
from seodang.data.template.renderer import Renderer, parse_tools
from seodang.errors import SeodangError
from seodang.model.engine.engine import Engine
from seodang.model.generate.batch import Completion, generate
from seodang.proof.evaluate import check_finite, evaluate
from seodang.proof.questions import Question, answer, questions
from seodang.recipe import Ask, Generate, Source
from seodang.run import evidence, record
from seodang.run.base_measurement import BaseMeasurement, measurement_settings
from seodang.run.folder import Run
from seodang.show import console
from seodang.train.metrics import evaluation_event
from seodang.train.setup import best_loss
from seodang.types import Answer, Metric, Placement

ModelName = Literal["base", "tuned"]
ChosenLoss = Callable[[Mapping[str, Metric]], float]


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """What every model is measured on."""

    rows: Mapping[str, Dataset]  # source → its holdout
    questions: Sequence[Question]
    renderer: Renderer
    pack_tokens: int  # positions of one forward pass
    chosen_loss: ChosenLoss | None  # picks the best checkpoint; none: no holdout measures it


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model, measured."""

    metrics: Mapping[str, Metric]  # source → loss on its holdout
    answers: Sequence[Answer]


def make_evaluation_set(
    ask: Ask, sources: Sequence[Source], best_by: str, prepared: Prepared, renderer: Renderer, pack_tokens: int
) -> EvaluationSet:
    """The holdouts of all sources, and all questions, rendered as they are served."""
    return EvaluationSet(
        rows=prepared.holdouts,
        questions=all_questions(ask, sources, prepared, renderer),
        renderer=renderer,
        pack_tokens=pack_tokens,
        chosen_loss=best_loss(best_by, sources, prepared.holdouts),
    )


def all_questions(ask: Ask, sources: Sequence[Source], prepared: Prepared, renderer: Renderer) -> list[Question]:
    """The recipe's questions, and the first holdout rows of every source but retention."""
    asked = {
        source.name: prepared.holdouts[source.name]
        for source in sources
        if source.role != "retention" and source.name in prepared.holdouts
    }
    return questions_of(ask, asked, renderer)


def questions_of(ask: Ask, holdouts: Mapping[str, Dataset], renderer: Renderer) -> list[Question]:
    """What is to be asked, rendered as it is served."""
    return questions(ask, holdouts, lambda messages, tools: renderer.prompt(messages, parse_tools(tools)))


def measure_model(
    model: PreTrainedModel,
    engine: Engine,
    held_out: EvaluationSet,
    name: ModelName,
    metrics: Mapping[str, Metric] | None = None,
) -> Measured:
    """Losses on every holdout, and answers to every question.

    Args:
        metrics: the losses, where these weights were measured already.

    Raises:
        RunError: a loss is NaN or infinite.
    """
    if metrics is None:
        with console.counting(f"{name}: rows of the holdout", sum(map(len, held_out.rows.values()))) as advance:
            metrics = evaluate(model, engine, held_out.rows, pack_tokens=held_out.pack_tokens, on_rows=advance)
    with distributed.agreed():
        check_finite(metrics, name)
    with console.counting(f"{name}: answers", len(held_out.questions)) as advance:
        answers = answers_of(model, held_out.renderer, name, held_out.questions, on_progress=advance)
    return Measured(metrics=metrics, answers=answers)


def measure_base(
    run: Run,
    model: PreTrainedModel,
    engine: Engine,
    held_out: EvaluationSet,
    placement: Placement,
    *,
    four_bit: bool = False,
) -> Measured:
    """Measure the base as the evaluation of step 0, or take what an earlier start measured under the same settings.

    Args:
        four_bit: whether the model's weights are held in 4 bits.
    """
    asked = [(question.prompt, question.settings.model_dump_json()) for question in held_out.questions]
    settings = measurement_settings(placement, asked, four_bit=four_bit)
    stored = distributed.exchange(_stored_base(run) if distributed.is_main() else None)[0]
    if stored and stored.settings == settings:
        return Measured(metrics=stored.metrics, answers=stored.answers)
    if stored:
        console.show_note("the base was measured under other settings: what differs is measured again")
    known = stored.metrics if stored and stored.settings.same_losses(settings) else None
    found = measure_model(model, engine, held_out, "base", known)
    loss = held_out.chosen_loss(found.metrics) if held_out.chosen_loss else None
    event = evaluation_event(found.metrics, loss, step=0, epoch=0.0)
    measured = BaseMeasurement(settings=settings, metrics=found.metrics, answers=tuple(found.answers))
    with distributed.agreed():
        if distributed.is_main():
            record.record_base(run, measured, event)
    return found


def _stored_base(run: Run) -> BaseMeasurement | None:
    try:
        return evidence.read_base(run)
    except SeodangError as error:  # it can be measured again
        console.show_note(f"{error.where} {error.what}: the base is measured again")
        return None


def answers_of(
    model: PreTrainedModel,
    renderer: Renderer,
    name: ModelName,
    asked: Sequence[Question],
    on_progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """One model's answers, in the order of the questions; the ranks share them."""
    tokenizer, is_sharded = renderer.tokenizer, distributed.is_sharded(model)
    answered_by = 1 if is_sharded else distributed.world()  # ranks that answer at the same time

    def completions(prompts: Sequence[str], settings: Generate) -> list[Completion]:
        def some(indices: Sequence[int]) -> list[Completion]:
            return generate(
                model,
                tokenizer,
                [tokenizer(prompts[index], add_special_tokens=False)["input_ids"] for index in indices],
                settings,
                turn_end_id=renderer.template.turn_end_id,
                streams=indices,
                on_progress=on_progress and (lambda done: on_progress(done * answered_by)),
            )

        # a model whose weights are spread is run by all ranks at once
        return some(range(len(prompts))) if is_sharded else distributed.spread(len(prompts), some)

    return answer(asked, name, completions)
