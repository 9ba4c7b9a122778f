"""Questions rendered as they are served, and one model's answers to them."""

from collections.abc import Callable, Mapping, Sequence

from datasets import Dataset
from transformers import PreTrainedModel

from seodang import distributed
from seodang.data.template.renderer import Renderer, parse_tools
from seodang.model.generate.batch import Completion, generate
from seodang.proof.questions import Question, answer, questions
from seodang.recipe import Ask, Generate
from seodang.types import Answer, ModelName


def questions_of(ask: Ask, holdouts: Mapping[str, Dataset], renderer: Renderer) -> list[Question]:
    """What is to be asked, rendered as it is served."""
    return questions(ask, holdouts, lambda messages, tools: renderer.prompt(messages, parse_tools(tools)))


def answers_of(
    model: PreTrainedModel,
    renderer: Renderer,
    name: ModelName,
    asked: Sequence[Question],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """One model's answers, in the order of the questions; the ranks share them.

    Args:
        on_progress: hears how many more questions are answered, and how many more tokens are written.
    """
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
                call_end_id=renderer.template.call_end_id,
                streams=indices,
                on_progress=on_progress and (lambda done: on_progress(done * answered_by, 0)),
                on_tokens=on_progress and (lambda tokens: on_progress(0, tokens * answered_by)),
            )

        # a model whose weights are spread is run by all ranks at once
        return some(range(len(prompts))) if is_sharded else distributed.spread(len(prompts), some)

    return answer(asked, name, completions)
