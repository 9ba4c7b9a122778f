"""The questions that base and tuned model both answer, under the same settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from seodang.data.arrow import block, read_columns
from seodang.data.encode.rows import messages_of
from seodang.model.generate.batch import Completion
from seodang.recipe import Ask, Generate
from seodang.types import Answer, AnswerKind, ModelName

REPEAT_TEMPERATURE = 0.1  # where the recipe names none
GenerateFn = Callable[[Sequence[str], Generate], list[Completion]]  # rendered prompts, settings
# messages, the last of them maybe an answer of which the beginning is given; JSON text of tools → rendered prompt
PromptFn = Callable[[Sequence[dict[str, Any]], str | None], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question as it is asked."""

    kind: AnswerKind
    text: str  # the last turn, for people
    prompt: str  # what the model is given: rendered as it was trained
    settings: Generate
    reference: str | None = None
    row_id: str | None = None
    source: str | None = None


def questions(ask: Ask, tests: Mapping[str, Dataset], prompt: PromptFn) -> list[Question]:
    """Everything to be asked, kind by kind.

    Args:
        tests: source → its holdout, of each of which the first `ask.holdout` rows are asked.
        prompt: renders messages as they are served.
    """

    def asked(kind: AnswerKind, text: str, settings: Generate) -> Question:
        rendered = prompt([{"role": "user", "content": text}], None)
        return Question(kind=kind, text=text, prompt=rendered, settings=settings)

    found = [asked("domain", text, ask.generate) for text in ask.domain]
    found += [asked("general", text, ask.generate) for text in ask.general]
    if ask.repeat:
        found += [asked("repeat", ask.repeat.question, repeat_settings(ask))] * ask.repeat.times
    return found + _from_holdout(ask, tests, prompt)


def repeat_settings(ask: Ask) -> Generate:
    """The recipe's settings, sampled in any case: asked again and again greedily, a model has one answer."""
    return ask.generate.model_copy(update={"temperature": ask.generate.temperature or REPEAT_TEMPERATURE})


def _from_holdout(ask: Ask, tests: Mapping[str, Dataset], prompt: PromptFn) -> list[Question]:
    """Holdout questions: what stands before a row's last answer is asked, the answer is the reference.

    Where the row gives the beginning of that answer, it stands at the end of the prompt, as it was trained.
    """
    settings = ask.generate.model_copy(update={"max_new_tokens": ask.holdout_tokens})
    found: list[Question] = []
    for name, rows in tests.items():
        chosen = rows.select(_one_of_each(rows)[: ask.holdout])
        table = block(chosen, 0, len(chosen))
        for row, turns in zip(table.select(["row_id", "tools"]).to_pylist(), messages_of(table), strict=True):
            if not turns:  # a plain text asks nothing
                continue
            last = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
            text, reference = turns[last - 1].get("content") or "", turns[last].get("content")
            begun = turns[last].get("prefill")
            found.append(
                Question(
                    kind="holdout",
                    text=f"{text}\n\n{begun}" if begun else text,
                    prompt=prompt(turns[: last + 1 if begun else last], row["tools"]),
                    settings=settings,
                    reference=(reference or "").removeprefix(begun) if begun else reference,
                    row_id=row["row_id"],
                    source=name,
                )
            )
    return found


def _one_of_each(rows: Dataset) -> list[int]:
    """Indices of the rows: first one example of each conversation, then the others; both in their order.

    The examples of one conversation bear its row_id, from the second on with "#2" and so forth behind it.
    """
    conversations = [row_id.split("#")[0] for row_id in read_columns(rows, "row_id")["row_id"].to_pylist()]
    first = {name: index for index, name in reversed(list(enumerate(conversations)))}
    return sorted(range(len(rows)), key=lambda index: (first[conversations[index]] != index, index))


def answer(asked: Sequence[Question], model: ModelName, generate: GenerateFn) -> list[Answer]:
    """One model's answers, in the order of the questions; those with the same settings are generated together."""
    by_settings: dict[Generate, list[int]] = {}
    for index, question in enumerate(asked):
        by_settings.setdefault(question.settings, []).append(index)
    answers: dict[int, Answer] = {}
    for settings, indices in by_settings.items():
        completions = generate([asked[index].prompt for index in indices], settings)
        for index, completion in zip(indices, completions, strict=True):
            question = asked[index]
            answers[index] = Answer(
                kind=question.kind,
                model=model,
                question=question.text,
                text=completion.text,
                stopped=completion.stopped,
                prompt_tokens=completion.prompt_tokens,
                new_tokens=completion.new_tokens,
                reference=question.reference,
                row_id=question.row_id,
                source=question.source,
            )
    return [answers[index] for index in range(len(asked))]
