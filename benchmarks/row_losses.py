"""Losses of base and tuned model on single held-out rows of a real run: the population that `coverage.py` draws from.

    python benchmarks/row_losses.py --data DIR --out tests/proof/fixtures/row_losses.csv

DIR holds ko_medical.jsonl and ko_general.jsonl (`question`, `answer`). Gemma-3-270m is tuned on a few rows of both,
half each, and plain transformers computes both models' losses in float32: independent of seodang's own engine. The
vocabulary is trimmed to the tokens of the two files, which halves the work and moves both models' losses alike. The
table holds numbers only, and grows by blocks of random rows, so that it can be stopped. About 15 minutes of one core.
"""

import argparse
import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    get_linear_schedule_with_warmup,
)

from seodang.data.read.clean import normal_form
from seodang.model.packaged import packaged_folder
from seodang.proof.statistics import union_clusters

HOLDOUT = {"ko_medical": 550, "ko_general": 960}
TRAINED = 20  # rows of each source
STEPS, WARMUP, ROWS_PER_STEP, LEARNING_RATE = 10, 2, 4, 8e-5
MAX_TOKENS = 512  # of prompt and reply; longer rows are passed over (fewer than 1 in 100)
BLOCK = 100  # rows, drawn at random, whose lengths are batched together
BATCH_TOKENS = 2048
HEAD_POSITIONS = 1024  # logits of so many positions at once
COLUMNS = "source,cluster,tokens,base_content,base_end,tuned_content,tuned_end"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question and answer as tokens."""

    source: str
    question: str
    answer: str
    prompt: list[int]
    reply: list[int]  # content, then the turn end


def read(folder: Path, source: str, tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """All rows of one file, in a random order."""
    lines = (folder / f"{source}.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(lines[i]) for i in np.random.default_rng(0).permutation(len(lines))]
    prompts = [f"<start_of_turn>user\n{row['question'].strip()}<end_of_turn>\n<start_of_turn>model\n" for row in found]
    replies = [row["answer"].strip() + "<end_of_turn>" for row in found]
    tokens = zip(
        found,
        tokenizer(prompts)["input_ids"],
        tokenizer(replies, add_special_tokens=False)["input_ids"],
        strict=True,
    )
    return [
        Row(source=source, question=row["question"], answer=row["answer"].strip(), prompt=prompt, reply=reply)
        for row, prompt, reply in tokens
        if len(prompt) + len(reply) <= MAX_TOKENS
    ]


def trim(model: PreTrainedModel, rows: list[Row]) -> list[Row]:
    """Leave the model the tokens of these rows alone; the rows with the new ids."""
    kept = np.unique(np.concatenate([row.prompt + row.reply for row in rows]))
    table = torch.nn.Parameter(model.get_input_embeddings().weight.detach()[torch.from_numpy(kept)].clone())
    model.get_input_embeddings().weight = table
    model.lm_head.weight = table
    model.config.vocab_size = model.get_input_embeddings().num_embeddings = len(kept)
    new = {int(token): number for number, token in enumerate(kept)}
    return [
        replace(row, prompt=[new[token] for token in row.prompt], reply=[new[token] for token in row.reply])
        for row in rows
    ]


def losses(model: PreTrainedModel, rows: list[Row]) -> list[torch.Tensor]:
    """−log p of each reply token, in nats [tokens], row by row; padding on the right stays unseen."""
    lengths = [len(row.prompt) + len(row.reply) for row in rows]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : lengths[i]] = torch.tensor(row.prompt + row.reply)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    inputs = torch.cat([hidden[i, len(row.prompt) - 1 : lengths[i] - 1] for i, row in enumerate(rows)])
    targets = torch.tensor([token for row in rows for token in row.reply])
    found = []
    for part, target in zip(inputs.split(HEAD_POSITIONS), targets.split(HEAD_POSITIONS), strict=True):
        logits = model.lm_head(part)
        found.append(logits.logsumexp(-1) - logits.gather(-1, target[:, None])[:, 0])
    return list(torch.cat(found).split([len(row.reply) for row in rows]))


def tune(model: PreTrainedModel, rows: list[Row]) -> None:
    """Full tuning, the loss a mean over all reply tokens of a step."""
    model.get_input_embeddings().weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [one for one in model.parameters() if one.requires_grad], lr=LEARNING_RATE, weight_decay=0.0
    )
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS + 1)
    order = np.random.default_rng(1).permutation(len(rows))
    for step in range(STEPS):
        chosen = [rows[i] for i in order[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP]]
        loss = torch.cat(losses(model, chosen)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        print(f"step {step + 1}: {loss.item():.3f}", flush=True)


@torch.no_grad()
def measure(model: PreTrainedModel, rows: list[Row]) -> np.ndarray:
    """[rows, 2] nats of the content and of the turn end."""
    found = np.zeros((len(rows), 2))
    waiting: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].reply)):
        if (len(waiting) + 1) * (len(rows[i].prompt) + len(rows[i].reply)) > BATCH_TOKENS:
            found[waiting], waiting = _sums(model, [rows[k] for k in waiting]), []
        waiting.append(i)
    found[waiting] = _sums(model, [rows[k] for k in waiting])
    return found


def _sums(model: PreTrainedModel, rows: list[Row]) -> list[tuple[float, float]]:
    return [(float(loss[:-1].double().sum()), float(loss[-1])) for loss in losses(model, rows)]


def main() -> None:
    """Tune, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folder = packaged_folder("gemma-3-270m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # no dropout in it
    rows = trim(model, [row for source in HOLDOUT for row in read(args.data, source, tokenizer)])
    held: list[Row] = []
    trained: list[Row] = []
    for source, count in HOLDOUT.items():
        own = [row for row in rows if row.source == source]
        held += own[:count]
        asked = {row.question for row in own[:count]}
        trained += [row for row in own[count:] if row.question not in asked][:TRAINED]
    tuned = copy.deepcopy(model)
    tune(tuned, trained)
    questions = [row.source + normal_form(row.question) for row in held]
    clusters = union_clusters(questions, [row.source + normal_form(row.answer) for row in held])
    with args.out.open("w", encoding="utf-8") as table:
        table.write(COLUMNS + "\n")
        for block in np.array_split(np.random.default_rng(2).permutation(len(held)), len(held) // BLOCK):
            rows = [held[i] for i in block]
            both = np.concatenate([measure(model, rows), measure(tuned, rows)], axis=1)
            for i, row, sums in zip(block, rows, both, strict=True):
                numbers = ",".join(f"{number:.4f}" for number in sums)
                table.write(f"{row.source},{clusters[i]},{len(row.reply) - 1},{numbers}\n")
            table.flush()
            print(f"{len(block)} rows: {both.sum(axis=0).round(1)} nats", flush=True)


if __name__ == "__main__":
    main()
