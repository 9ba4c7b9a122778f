#!/usr/bin/env python3
"""Preparation of conversational rows, by us and by TRL's SFTTrainer; the last line is one JSON object.

    python benchmarks/bench_prepare.py                1,000,000 rows ours, 50,000 rows of TRL
    python benchmarks/bench_prepare.py --quick        50,000 and 5,000 rows (under 3 minutes)
    python benchmarks/bench_prepare.py --growth 3000 30000 300000
                                                      CPU seconds of each stage at these numbers of rows, for each
                                                      kind of file: what grows faster than its rows is a fault

Rows are real ones, numbered and repeated until there are enough. Each arm runs in a process of its own: ours, ours
again (the second start, with what the first one kept), ours on the peer's rows, TRL with one process and with two.
Time counts from after the imports; TRL's has read the tokenizer by then, ours reads it as a part of the pipeline,
which is reported as `tokenizer_seconds` and taken off in `speed_vs_peer_same_rows`.
Memory is the sum of PSS over an arm's processes, sampled: pages of mapped files count, as long as they are mapped.
`cpu_seconds` are those of all processes of an arm, imports included: they depend less on what else the machine does.
"""

import argparse
import csv
import gzip
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from importlib.resources import files
from itertools import cycle, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data"
SAMPLE_SECONDS = 1.0  # to look takes a process of gigabytes some 50 ms
MAX_TOKENS = 1024
PARTS = ("Pss", "Pss_Anon", "Pss_File")


def read_conversations(folder: Path) -> list[list[dict[str, str]]]:
    """Questions with answers and plain conversations of a folder's JSON Lines files, shuffled."""
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
                question = "\n\n".join(part for part in (row.get("context"), row["question"]) if part)
                turns = [{"role": "user", "content": question}, {"role": "assistant", "content": row["answer"]}]
            else:
                turns = row.get("messages") or []
            if turns and all(turn.keys() == {"role", "content"} and turn["content"] for turn in turns):
                found.append(turns)
    random.Random(0).shuffle(found)
    return found


def write_rows(path: Path, conversations: list[list[dict[str, str]]], count: int) -> None:
    """`count` rows in the messages format; the first turn of each ends in its number."""
    with path.open("w", encoding="utf-8") as lines:
        for number, (first, *rest) in enumerate(islice(cycle(conversations), count), start=1):
            turns = [{**first, "content": f"{first['content']} ({number})"}, *rest]
            lines.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


KINDS = ("lines", "gzip", "table", "parquet", "folder", "text")  # of the data whose growth is measured
FILE_ROWS = 20  # of each file of a folder
TEXT_ROWS = 10  # conversations of one plain text


def write_kind(kind: str, folder: Path, conversations: list[list[dict[str, str]]], count: int) -> Path:
    """So many rows as one kind of data: questions with answers, of a text several together."""
    pairs = [
        {"question": f"{turns[0]['content']} ({number})", "answer": turns[1]["content"]}
        for number, turns in enumerate(islice(cycle(filter(lambda one: len(one) > 1, conversations)), count), start=1)
    ]
    lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs]
    path = folder / f"{kind}-{count}"
    if kind == "folder":
        path.mkdir()
        for start in range(0, count, FILE_ROWS):
            (path / f"{start:09}.jsonl").write_text("".join(lines[start : start + FILE_ROWS]), encoding="utf-8")
        return path
    if kind == "text":
        texts = [
            "\n\n".join(" ".join(pair.values()) for pair in pairs[at : at + TEXT_ROWS])
            for at in range(0, count, TEXT_ROWS)
        ]
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    if kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(pairs), path)
    elif kind == "table":
        with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ["question", "answer"])
            table.writeheader()
            table.writerows(pairs)
        return path.with_suffix(".csv")
    else:
        with (gzip.open if kind == "gzip" else open)(path, "wt", encoding="utf-8") as file:
            file.writelines(lines)
    return path


def growth(args: argparse.Namespace, folder: Path, conversations: list[list[dict[str, str]]]) -> dict[str, Any]:
    """By kind and number of rows: CPU seconds of each stage, and memory."""
    found: dict[str, dict[int, Any]] = {}
    for kind in args.kinds:
        for count in args.growth:
            rows = write_kind(kind, folder, conversations, count)
            cache = folder / "cache"
            settings = {"SEODANG_CACHE": str(cache), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
            one = run_arm("stages", args, folder, rows, **settings)
            shutil.rmtree(cache)
            shutil.rmtree(rows) if rows.is_dir() else rows.unlink()
            found.setdefault(kind, {})[count] = {
                key: one[key] for key in ("stages", "rows", "held_out", "rss_gb", "peak_gb")
            }
            shown = "  ".join(f"{stage} {seconds}" for stage, seconds in one["stages"].items())
            print(f"{kind:8} {count:9,}  {shown}", flush=True)
    return found


def make_model(folder: Path, tokenizer: Path) -> None:
    """A model of some thousand random weights beside the tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(AutoTokenizer.from_pretrained(tokenizer)), **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)


def run_arm(arm: str, args: argparse.Namespace, folder: Path, rows: Path, **settings: str) -> dict[str, Any]:
    """An arm's own result, with the peak memory of its processes in GB."""
    command = [sys.executable, str(HERE / "arm_prepare.py"), arm.split("-")[0], "--rows", str(rows)]
    command += ["--model", str(folder / "model"), "--max-tokens", str(MAX_TOKENS)]
    if arm == "trl-2":
        command += ["--processes", "2"]
    with (folder / "err").open("w+", encoding="utf-8") as errors:
        started = time.time()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, **settings},
        )  # fmt: skip
        peaks: dict[str, float] = {}
        watch = threading.Thread(target=watch_memory, args=(process, peaks))
        watch.start()
        out, _ = process.communicate()
        seconds = time.time() - started
        watch.join()
        if process.returncode:
            raise SystemExit(f"{arm} failed:\n{Path(errors.name).read_text(encoding='utf-8')[-2000:]}")
    result: dict[str, Any] = {**json.loads(out.strip().splitlines()[-1]), "process_seconds": seconds, "peak_gb": peaks}
    print(f"{arm:12} {result['seconds']:8.1f} s  {peaks['Pss']:.2f} GB", flush=True)
    return result


def watch_memory(process: "subprocess.Popen[str]", peaks: dict[str, float]) -> None:
    """Keep the largest sums over a process and all below it, in GB, until it ends."""
    while process.poll() is None:
        total = dict.fromkeys(PARTS, 0)
        for pid in tree(process.pid):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            except OSError:  # it has ended meanwhile
                continue
            sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
            total = {part: total[part] + sizes.get(part, 0) for part in PARTS}
        peaks.update({part: max(peaks.get(part, 0.0), size * 1024 / 1e9) for part, size in total.items()})
        time.sleep(SAMPLE_SECONDS)


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = children.read_text(encoding="ascii").split()
        except OSError:
            continue
        for child in below:
            yield from tree(int(child))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=50_000, help="0: no peer")
    parser.add_argument(
        "--growth", type=int, nargs="+", metavar="ROWS", help="stages at these numbers of rows, no peer"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of data, with --growth")
    parser.add_argument("--data", type=Path, default=None, help="JSON Lines; default: shared/data, else the samples")
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers" / "gemma3", help="instruct, a folder")
    parser.add_argument("--folder", type=Path, default=None, help="for the work; default: a temporary one")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.quick:
        args.rows, args.peer_rows = 50_000, 5_000
    data = args.data or (SHARED if SHARED.is_dir() else Path(str(files("seodang").joinpath("samples"))))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        conversations = read_conversations(data)
        make_model(folder / "model", args.tokenizer)
        if args.growth:
            result: dict[str, Any] = {
                "date": date.today().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "growth": growth(args, folder, conversations),
            }
        else:
            write_rows(folder / "rows.jsonl", conversations, args.rows)
            result = summary(args, len(conversations), run(args, folder, conversations))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result))


def run(args: argparse.Namespace, folder: Path, conversations: list[list[dict[str, str]]]) -> dict[str, dict[str, Any]]:
    """All arms, one after another; what one of them writes is of no use to another but to the second start."""
    rows, peer_rows = folder / "rows.jsonl", folder / "peer.jsonl"
    cache = {"SEODANG_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
    results = {arm: run_arm(arm, args, folder, rows, **cache) for arm in ("ours", "ours-again")}
    if args.peer_rows:
        write_rows(peer_rows, conversations, args.peer_rows)
        results["ours-peer"] = run_arm("ours-peer", args, folder, peer_rows, **cache)
        for arm in ("trl-1", "trl-2"):
            kept = {"HF_DATASETS_CACHE": str(folder / arm), "TMPDIR": str(folder)}
            results[arm] = run_arm(arm, args, folder, peer_rows, **kept)
    return results


def summary(args: argparse.Namespace, different: int, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Rows a second, seconds, memory and the ratios of one run."""
    rows = {arm: args.rows if arm in ("ours", "ours-again") else args.peer_rows for arm in results}
    rate = {arm: rows[arm] / result["seconds"] for arm, result in results.items() if arm != "ours-again"}
    packages = ("trl", "transformers", "tokenizers", "datasets", "pyarrow") if args.peer_rows else ("tokenizers",)
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in packages},
        "tokenizer": args.tokenizer.name,
        "rows": args.rows,
        "peer_rows": args.peer_rows,
        "different_conversations": different,
        "seconds": {arm: round(result["seconds"], 1) for arm, result in results.items()},
        "cpu_seconds": {arm: round(result["cpu_seconds"], 1) for arm, result in results.items()},
        "rows_per_second": {arm: round(value, 1) for arm, value in rate.items()},
        "peak_gb": {arm: round(result["peak_gb"]["Pss"], 2) for arm, result in results.items()},
        "second_start_seconds": round(results["ours-again"]["seconds"], 2),
        "tokenizer_seconds": round(results["ours-again"]["seconds_loading"], 2),
    }
    if args.peer_rows:
        best = max(("trl-1", "trl-2"), key=lambda arm: rate[arm])
        own = {arm: run["seconds"] - run["seconds_loading"] for arm, run in results.items() if "ours" in arm}
        found |= {
            "best_peer": best,
            "speed_vs_peer": round(rate["ours"] / rate[best], 2),
            "speed_vs_peer_same_rows": round(results[best]["seconds"] / own["ours-peer"], 2),
        }
    return {**found, "runs": results}


if __name__ == "__main__":
    main()
