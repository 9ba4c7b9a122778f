"""Losses of base and tuned model on single held-out rows of a real run: the population that `coverage.py` draws from.

    python benchmarks/row_losses.py --data DIR --out tests/proof/fixtures/row_losses.csv
    python benchmarks/row_losses.py --data DIR --check 100

DIR holds ko_medical.jsonl and ko_general.jsonl (`question`, `answer`). Gemma-3-270m is tuned on a few rows of both,
half each, and plain transformers computes both models' losses in float32: independent of seodang's own engine. The
vocabulary is trimmed to the tokens of the two files, which halves the work and moves both models' losses alike. The
table holds numbers only, and grows by blocks of random rows, so that it can be stopped. About 15 minutes of one core.

--check N compares what a proof measures of the untuned model with the same computation, on N short rows of each source
and N short texts (cpt_ko_health_law.jsonl, `text`), whole vocabulary: how far the losses of a row, a token of it and a
turn end differ at most, in nats.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
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
from seodang.pipeline import prepare
from seodang.proof.row_losses import measure_source
from seodang.proof.statistics import union_clusters
from seodang.recipe import load_recipe
from seodang.run.base_measurement import ModelRow, RowLoss
from seodang.stages import preflight
from seodang.stages.measure import EvaluationSet, make_evaluation_set

MODEL = "gemma-3-270m"
HOLDOUT = {"ko_medical": 550, "ko_general": 960}
TRAINED = 100  # rows of each source
STEPS, WARMUP, ROWS_PER_STEP, LEARNING_RATE = 50, 3, 4, 5e-5
MAX_TOKENS = 512  # of prompt and reply; longer rows are passed over (fewer than 1 in 100)
BLOCK = 100  # rows, drawn at random, whose lengths are batched together
BATCH_TOKENS = 2048
KEYS, SHORT = ("question", "answer", "text"), 100  # what --check reads of a line; characters of a row
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


def encoded(tokenizer: PreTrainedTokenizerFast, source: str, line: dict[str, str]) -> Row:
    """A question with its answer, or a plain text, whose first token is not scored."""
    text = line.get("text")
    if text is not None:
        first, *rest = tokenizer(text)["input_ids"]
        return Row(source=source, question="", answer=text, prompt=[first], reply=rest)
    prompt = f"<start_of_turn>user\n{line['question']}<end_of_turn>\n<start_of_turn>model\n"
    reply = tokenizer(line["answer"] + "<end_of_turn>", add_special_tokens=False)["input_ids"]
    question, answer = line["question"], line["answer"]
    return Row(source=source, question=question, answer=answer, prompt=tokenizer(prompt)["input_ids"], reply=reply)


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


def short_lines(folder: Path, source: str, count: int) -> list[dict[str, str]]:
    """Rows of one file of at most `SHORT` characters, with another question each; of longer texts the beginning."""
    lines = (folder / f"{source}.jsonl").read_text(encoding="utf-8").splitlines()
    found: dict[str, dict[str, str]] = {}
    for i in np.random.default_rng(0).permutation(len(lines)):
        line = {key: value.strip() for key, value in json.loads(lines[i]).items() if key in KEYS}
        if "text" in line:
            line["text"] = line["text"][:SHORT].strip()
        if sum(map(len, line.values())) <= SHORT:
            found.setdefault(normal_form(line.get("question") or line["text"]), line)
        if len(found) == count:
            break
    return list(found.values())


def proven(folder: Path, lines: dict[str, list[dict[str, str]]]) -> tuple[EvaluationSet, dict[str, list[ModelRow]]]:
    """What a proof measures of the untuned model on these lines, all held out but the first of the first source."""
    sources = []
    for number, (source, own) in enumerate(lines.items()):
        path = folder / f"{source}.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in own), encoding="utf-8")
        use = {"role": "domain", "holdout": len(own) - 1} if number == 0 else {"role": "general", "train": False}
        sources.append({"name": source, "path": str(path), **({"role": "retention"} if "text" in own[0] else use)})
    recipe = load_recipe(
        {
            "name": "check",
            "model": {"path": f"package:{MODEL}", "dtype": "float32"},
            "template": {"borrow": "gemma"},
            "sources": sources,
            "train": {"max_tokens": MAX_TOKENS},
        }
    )
    placement = preflight.place(recipe.model, recipe.train, will_train=False)
    inputs = prepare(recipe, placement)
    held_out = make_evaluation_set(recipe, inputs, BATCH_TOKENS, losses_alone=True)
    model, engine = preflight.load_measured(inputs, recipe.model.path, recipe.train)
    return held_out, {
        source.name: measure_source(model, engine, source, pack_tokens=BATCH_TOKENS, choose_form=False)[0]
        for source in held_out.sources
    }


@torch.no_grad()
def check(folder: Path, count: int) -> None:
    """Print, of each source, by how much a proof's losses differ from plain transformers'."""
    lines = {
        source: short_lines(folder, source, count + (number == 0))
        for number, source in enumerate((*HOLDOUT, "cpt_ko_health_law"))
    }
    with tempfile.TemporaryDirectory() as aside:
        held_out, found = proven(Path(aside), lines)
    tokenizer = AutoTokenizer.from_pretrained(packaged_folder(MODEL))
    model = AutoModelForCausalLM.from_pretrained(packaged_folder(MODEL), dtype=torch.float32).eval()
    for source in held_out.sources:
        places = [int(row.where.rpartition(":")[2]) - 1 for row in source.rows]
        rows = [encoded(tokenizer, source.name, lines[source.name][place]) for place in places]
        worst = differences(rows, [row.loss for row in found[source.name]], measure(model, rows))
        print(f"{source.name}: {len(rows)} rows, {sum(len(row.reply) for row in rows)} tokens; differences {worst}")


def differences(rows: Sequence[Row], found: Sequence[RowLoss], expected: np.ndarray) -> str:
    """The largest of a row's loss, of a token on average over its row, and of a turn end, in nats."""
    has_end = np.array([bool(row.question) for row in rows])
    content = expected[:, 0] + np.where(has_end, 0, expected[:, 1])  # the last token of a text is content
    ending = np.where(has_end, expected[:, 1], 0)
    of_content = np.abs([one.content for one in found] - content)
    of_ending = np.abs([one.ending for one in found] - ending)
    per_token = of_content / [len(row.reply) for row in rows]
    return f"{of_content.max():.1e} a row, {per_token.max():.1e} a token, {of_ending.max():.1e} a turn end"


def main() -> None:
    """Tune, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", type=int, metavar="N")
    args = parser.parse_args()
    if args.check:
        check(args.data, args.check)
        return
    if not args.out:
        parser.error("--out is missing")
    folder = packaged_folder(MODEL)
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
