"""What a row says about its loss, down to the labels: flags, histories and beginnings that the prompt gives."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from converted import convert_rows
from seodang.data.encode.rows import render
from seodang.data.template.find import apply_template, find_template
from seodang.data.template.renderer import Renderer, parse_tools
from seodang.proof.questions import questions
from seodang.recipe import Ask, Template
from seodang.types import IGNORED, Counts, LossOn

USER = {"role": "user", "content": "1+1?"}
WRONG = {"role": "assistant", "content": "3"}
AGAIN = {"role": "user", "content": "다시"}
RIGHT = {"role": "assistant", "content": "2"}
END = "<|im_end|>"


def supervised(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    row: dict[str, Any] | str,
    template: str = "chatml",
    *,
    thinking: bool = False,
    loss_on: LossOn = "answers",
) -> tuple[list[str], Counts]:
    """The supervised runs of the row's tokens in all of its examples, as text."""
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
    table, _ = convert_rows(folder, f"{text}\n{text}\n")
    tokenizer.chat_template = None
    found = find_template(
        tokenizer,
        Template(borrow=template),
        num_embeddings=len(tokenizer),
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
        thinking=thinking,
    )
    apply_template(tokenizer, found)
    rows, counts = render(table, Renderer(tokenizer, found, loss_on=loss_on), max_tokens=4096)
    runs: list[list[int]] = [[]]
    for row_made in rows:
        runs.append([])
        for label in row_made["labels"] if row_made["row"] == 1 else []:
            if label == IGNORED:
                runs.append([])
            else:
                runs[-1].append(label)
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs if run], counts


@pytest.mark.parametrize("flags", [{"train": False}, {"weight": "0"}, {"mask": True}])
def test_answers_without_loss_have_no_labels(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, flags: dict[str, Any]
) -> None:
    """A flagged answer is context for each choice of `loss_on`; the last answer with loss is the last one."""
    row = {"messages": [USER, {**WRONG, **flags}, AGAIN, RIGHT]}
    assert supervised(tmp_path, tiny_tokenizer, row)[0] == [f"2{END}"]
    assert supervised(tmp_path, tiny_tokenizer, row, loss_on="last_answer")[0] == [f"2{END}"]
    before, after = supervised(tmp_path, tiny_tokenizer, row, loss_on="all")[0]
    assert before.endswith("<|im_start|>assistant\n")
    assert after == f"\n<|im_start|>user\n다시{END}\n<|im_start|>assistant\n2{END}\n"
    row = {"messages": [USER, RIGHT, AGAIN, {**WRONG, **flags}]}
    assert supervised(tmp_path, tiny_tokenizer, row, loss_on="last_answer")[0] == [f"2{END}"]


def test_of_a_prompt_with_history_the_completion_has_labels(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Neither the prompt's answers nor the beginning of the last one are trained; the rest is."""
    row: dict[str, Any] = {"prompt": [USER, WRONG, AGAIN], "completion": [RIGHT]}
    assert supervised(tmp_path, tiny_tokenizer, row)[0] == [f"2{END}"]
    row["prompt"] += [{"role": "assistant", "content": "답은 "}]  # the blank is of one token with what follows
    assert supervised(tmp_path, tiny_tokenizer, row)[0] == [f" 2{END}"]
    assert supervised(tmp_path, tiny_tokenizer, row, loss_on="all")[0][-1] == f" 2{END}\n"
    row = {"prompt": [USER, {"role": "assistant", "content": "<think>\n"}], "completion": "음\n</think>\n\n2"}
    assert supervised(tmp_path, tiny_tokenizer, row, "qwen3", thinking=True)[0] == [f"\n음\n</think>\n\n2{END}"]


def test_a_beginning_that_the_template_changes_drops_the_row(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """If the given beginning is not found where the answer begins, nobody knows what to supervise."""
    begun = {"role": "assistant", "content": "<think>\n\n음"}
    row = {"prompt": [USER, begun], "completion": "</think>\n\n2"}
    _, counts = supervised(tmp_path, tiny_tokenizer, row, "qwen3", thinking=True)
    assert counts.dropped == {"the template alters the given beginning of an answer": 2}


CALL = '{"name": "f", "arguments": {"dose": 1.10, "n": 1e5}}'


@pytest.mark.parametrize("thought", ["", "<think>\n음\n</think>\n\n"])
def test_a_call_of_one_turn_is_supervised_whole(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, thought: str
) -> None:
    """A thought or text and the calls that follow are one answer; numbers stand as they were written."""
    turns = [("human", "q"), ("gpt", thought + "찾아요."), ("function_call", CALL), ("function_call", CALL)]
    turns += [("observation", "1"), ("observation", "2"), ("gpt", thought + "네.")]
    row = {"conversations": [{"from": role, "value": value} for role, value in turns]}
    answers, counts = supervised(tmp_path, tiny_tokenizer, row, "qwen3", thinking=bool(thought))
    call = f"<tool_call>\n{CALL}\n</tool_call>"
    assert sorted(answers) == sorted([f"{thought}찾아요.\n{call}\n{call}{END}", f"{thought}네.{END}"])
    assert counts.dropped == {}


def test_a_lone_thought_before_a_call_is_kept(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """`<think>…</think>` and then a call, in two turns or in one, drop no row."""
    thought = "<think>\n음\n</think>"
    for middle in ([("gpt", thought), ("function_call", CALL)], [("function_call", f"{thought}\n{CALL}")]):
        turns = [("human", "q"), *middle, ("observation", "1"), ("gpt", f"{thought}\n\n네.")]
        row = {"conversations": [{"from": role, "value": value} for role, value in turns]}
        answers, counts = supervised(tmp_path, tiny_tokenizer, row, "qwen3", thinking=True)
        assert answers[0].startswith(f"{thought}\n\n")
        assert CALL in answers[0]
        assert counts.dropped == {}


def test_numbers_of_definitions_stand_in_the_prompt_as_they_were_written(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """A default of 1.10 in a schema is not 1.1 for the model."""
    tools = '[{"name": "f", "parameters": {"default": 1.10, "maximum": 1E5}}]'
    row = json.dumps({"messages": [USER, RIGHT]})[:-1] + f', "tools": {tools}}}'
    answers, _ = supervised(tmp_path, tiny_tokenizer, row, "qwen3", loss_on="all")
    assert tools[1:-1] in answers[0]


def test_a_prefilled_holdout_question_is_asked_with_its_beginning(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """The prompt ends with the given text exactly where the loss begins in training; the rest is the reference."""
    begun = {"role": "assistant", "content": "답은 "}
    row = {"prompt": [USER, begun], "completion": [RIGHT]}
    table, _ = convert_rows(tmp_path, f"{json.dumps(row, ensure_ascii=False)}\n" * 2)
    tiny_tokenizer.chat_template = None
    found = find_template(
        tiny_tokenizer,
        Template(borrow="chatml"),
        num_embeddings=len(tiny_tokenizer),
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
    )
    apply_template(tiny_tokenizer, found)
    renderer = Renderer(tiny_tokenizer, found)
    asked = questions(
        Ask(holdout=1), {"a": table}, lambda messages, tools: renderer.prompt(messages, parse_tools(tools))
    )
    assert [question.text for question in asked] == ["1+1?\n\n답은 "]
    assert asked[0].reference == "2"
    rows, _ = render(table, renderer, max_tokens=4096)
    trained = rows[0]
    first = next(at for at, label in enumerate(trained["labels"]) if label != IGNORED)
    assert tiny_tokenizer(asked[0].prompt, add_special_tokens=False)["input_ids"] == trained["input_ids"][:first]
