"""Conversations of many rounds from the real data, with planted thoughts and tool calls, and what is served for them.

    PYTHONPATH=tests/support python tests/support/planted.py ../../shared/data 2000

makes so many rows for each real tokenizer, with and without thoughts, and checks every supervised answer.
"""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from qa_rows import key, talk_rows
from real_tokenizers import real_tokenizer
from seodang.data.encode.rows import render
from seodang.data.template.find import apply_template, find_template
from seodang.data.template.renderer import Renderer
from seodang.recipe import Template
from seodang.types import Counts
from served import check_served

Conversation = list[dict[str, Any]]
FILES = ("ko_medical.jsonl", "ko_general.jsonl", "en_general.jsonl", "en_medical.jsonl")
NAMES = ("gemma3", "llama3_1", "qwen3")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_drug",
            "description": "약을 찾는다",
            "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
    }
]


def planted(folder: Path, seed: int, count: int, *, thoughts: bool, tools: bool) -> Iterator[Conversation]:
    """Conversations of two to five rounds, or as they stand in chat_multiturn.jsonl.

    Args:
        thoughts: some answers come with one: half of them in a field of its own if there are tools, else in the text.
        tools: some answers come after calls and their reports.
    """
    draw = random.Random(seed)
    pairs = [pair for file in FILES for pair in _pairs(folder / file)]
    talks = [json.loads(line)["messages"] for line in (folder / "chat_multiturn.jsonl").open(encoding="utf-8")]
    for _ in range(count):
        real = draw.random() < 0.3
        rounds = _rounds(draw.choice(talks))[:6] if real else draw.sample(pairs, draw.randint(2, 5))
        talk: Conversation = [{"role": "system", "content": "짧게 답하세요."}] if draw.random() < 0.3 else []
        for question, answer in rounds:
            talk.append({"role": "user", "content": question})
            for _ in range(draw.choice((1, 1, 2)) if tools and draw.random() < 0.3 else 0):
                talk += _call(draw, question, thoughts=thoughts)
            talk.append(_answer(draw, question, answer, thoughts=thoughts, apart=tools))
        yield talk


def _pairs(path: Path) -> list[tuple[str, str]]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines()[:2000])
    return [(row["question"], row["answer"]) for row in rows if row["question"].strip() and row["answer"].strip()]


def _rounds(talk: Conversation) -> list[tuple[str, str]]:
    texts = [turn["content"] for turn in talk if turn["role"] != "system"]
    return list(zip(texts[::2], texts[1::2], strict=False))


def _call(draw: random.Random, question: str, *, thoughts: bool) -> Conversation:
    call = {"name": "find_drug", "arguments": {"name": question[:12]}}
    turn = {"role": "assistant", "content": draw.choice(("", "찾아볼게요.")), "tool_calls": [{"function": call}]}
    if thoughts and draw.random() < 0.5:
        turn["reasoning_content"] = f"도구가 낫다: {question[:20]}"
    report = {"role": "tool", "name": "find_drug", "content": json.dumps({"found": draw.random() < 0.5})}
    return [turn, report]


def _answer(draw: random.Random, question: str, answer: str, *, thoughts: bool, apart: bool) -> dict[str, Any]:
    if not thoughts or draw.random() < 0.6:
        return {"role": "assistant", "content": answer}
    thought = f"물음은 이렇다.\n{question[:40]}".strip()
    if apart and draw.random() < 0.5:
        return {"role": "assistant", "content": answer, "reasoning_content": thought}
    return {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{answer}"}


def check(name: str, folder: Path, count: int, *, thoughts: bool, seed: int = 5) -> tuple[Counter[str], Counts]:
    """Render rows for one real tokenizer with its own template, and check every supervised answer of each."""
    served, tokenizer = (real_tokenizer(name, folder / "tokenizers") for _ in range(2))
    tools = TOOLS if name == "qwen3" else None
    template = find_template(
        tokenizer, Template(), num_embeddings=300_000, load_tokenizer=AutoTokenizer.from_pretrained, thinking=thoughts
    )
    apply_template(tokenizer, template)
    talks = list(planted(folder, seed, count, thoughts=thoughts, tools=bool(tools)))
    made, counts = render(talk_rows(*talks, tools=tools), Renderer(tokenizer, template), max_tokens=100_000)
    examples: dict[int, list[Any]] = {}
    for row in made.select_columns(["row", "input_ids", "labels"]):
        examples.setdefault(row["row"], []).append(row)
    dropped = {note.row_id for note in counts.notes}
    settings = {} if thoughts else {"enable_thinking": False}
    done: Counter[str] = Counter(rows=len(talks), examples=len(made))
    for at, talk in enumerate(talks):
        of_talk = examples.get(at + 1, [])
        ends = [template.turn_end_id]
        found = check_served(served, talk, tools, of_talk, turn_ends=ends, **settings)
        answers = [number for number, turn in enumerate(talk) if turn["role"] == "assistant"]
        assert sorted(found) == answers or key(str(at)) in dropped, (at, found)
        done["answers"] += len(answers)
        done["supervised"] += len(found)
    return done, counts


def main(folder: Path, count: int) -> None:
    for name in NAMES:
        for thoughts in (False, True):
            started = time.perf_counter()
            done, counts = check(name, folder, count, thoughts=thoughts)
            seconds = time.perf_counter() - started
            print(name, "thoughts" if thoughts else "plain", dict(done), dict(counts.changed), dict(counts.dropped))
            print(f"  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
