"""Broken inputs of every kind, made from seeds: each ends in success or in one SeodangError, soon and in little memory.

One process takes them all: data files, recipes, templates, tokenizers, configurations, run folders and lines typed in a
chat, with flipped bits, cut off, deeply nested, absurdly large, in other encodings, or with values of other types. What
ends otherwise is printed with its seed, and `--first SEED --count 1 --keep FOLDER` makes that very input again.

    python benchmarks/broken_inputs.py --count 1000
"""

import argparse
import contextlib
import faulthandler
import gzip
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support")]

KILL_SECONDS = 300  # after which an input that cannot be interrupted ends the whole process
CODECS = ("cp949", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "shift_jis", "euc-jp", "gb18030", "cp1252")
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    10**30,
    1e308,
    -1e-308,
    0.5,
    "",
    " ",
    "\0",
    "\u200b",
    "\ud800",
    "\x1b[2J",
    "nan",
    "None",
    "..",
    "/",
    "~",
    "~x/y",
    "null",
    "가",
    "\uac00\u0301" * 40,
    "A" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"role": "user"},
    [{"role": "assistant"}],
    {"a": {"b": {"c": []}}},
    "{{ x }}",
    "{% for %}",
    "[1, 2",
    "2024-01-01",
    "<think>",
    "-----BEGIN",
)
JINJA = (
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if m.role == 'user' %}",
    "{% endif %}",
    "{{ m.content }}",
    "{{ m['x']['y'] }}",
    "{% set ns = namespace(i=0) %}",
    "{% break %}",
    "{% generation %}",
    "{{ bos_token }}",
    "{{ raise_exception('no') }}",
    "{{ 'a' * 100000000 }}",
    "{{ messages | tojson(indent=4) }}",
    "{{ range(10**9) | list }}",
    "{% for i in range(10**8) %}x{% endfor %}",
    "{{ 'x'.center(10**8) }}",
    "{% include 'x' %}",
    "{% import 'os' as os %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ strftime_now(5) }}",
    "{# ",
    "{% raw %}",
    "{{",
    "}}",
    "<|im_start|>",
    "\n",
    "{{ m.content.encode('utf-8') }}",
    "{{ 1 / 0 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ '%s' | format(messages) }}",
    "{{ m.content | truncate(3) }}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of one input."""

    seed: int
    kind: str
    outcome: str  # fine, refused (SeodangError), or fault
    what: str  # the error, or what is wrong
    seconds: float  # of the processor: others share the machine
    memory_gb: float  # by which the process grew at its peak


class TooLong(BaseException):
    """An input took longer than it may."""


# --- breaking bytes, values and texts


def break_bytes(draw: random.Random, data: bytes) -> bytes:
    """One to three wounds of a file."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        place = draw.randrange(len(data) + 1)
        match draw.randrange(11):
            case 0:
                data = data[:place]
            case 1 if data:
                flipped = bytearray(data)
                for _ in range(draw.choice((1, 3, 40))):
                    flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
                data = bytes(flipped)
            case 2:
                data = data[:place] + draw.randbytes(draw.choice((1, 4, 300))) + data[place:]
            case 3:
                data = (
                    data[:place]
                    + bytes([draw.choice(b"\0\x1a\xff\xfe\r\"'{[,")]) * draw.choice((1, 2, 5000))
                    + data[place:]
                )
            case 4:
                data = data[place:] + data[:place]
            case 5:
                data = data[:place] + data[place // 2 : place] * draw.choice((2, 50)) + data[place:]
            case 6:
                data = data.decode("utf-8", "replace").encode(draw.choice(CODECS), "replace")
            case 7:
                data = (
                    draw.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"PK\3\4", b"\x1f\x8b", b"PAR1", b"GGUF"))
                    + data
                )
            case 8:
                data = data.replace(
                    draw.choice((b"\n", b",", b'"', b"{", b":")), draw.choice((b"", b"\r", b"\t", b"\0", b",,"))
                )
            case 9:
                depth = draw.choice((50, 2000, 200_000))
                data = data[:place] + draw.choice((b"[", b'{"a":', b"(", b"- ")) * depth + data[place:]
            case _:
                data = (
                    data[:place]
                    + draw.choice((b"a", b",", b"\xea\xb0\x80")) * draw.choice((10**5, 4 * 10**6))
                    + data[place:]
                )
    return data


def break_value(draw: random.Random, value: Any) -> Any:
    """A value with one to three of its parts replaced, renamed, removed, doubled or nested."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        value = _break_once(draw, value)
    return value


def _break_once(draw: random.Random, value: Any, depth: int = 0) -> Any:
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or draw.random() < 0.12 + 0.1 * depth:
        return draw.choice((*ODD, [value] * 3, {"x": value}, str(value), _nested(value, draw.choice((5, 300)))))
    place = draw.choice(inner)
    if isinstance(value, dict):
        match draw.randrange(8):
            case 0:
                return {key: item for key, item in value.items() if key != place}
            case 1:
                new = draw.choice((str(place) + "x", str(place).upper(), "", "a\0b", "__class__", "가"))
                return {new if key == place else key: item for key, item in value.items()}
            case _:
                return value | {place: _break_once(draw, value[place], depth + 1)}
    changed = list(value)
    if draw.random() < 0.2:
        return changed[:place] + changed[place:] * draw.choice((2, 0))
    changed[place] = _break_once(draw, changed[place], depth + 1)
    return changed


def _nested(value: Any, depth: int) -> Any:
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    return value


def _laughs() -> bytes:
    """A few lines of YAML whose value has a billion parts."""
    lines = ["a0: &a0 [" + ",".join("x" * 9) + "]"]
    lines += [f"a{n}: &a{n} [" + ",".join([f"*a{n - 1}"] * 9) + "]" for n in range(1, 9)]
    return ("\n" + "\n".join(lines) + "\nsystem: *a8\n").encode()


# --- kinds of input: each writes its files into the folder it is given, and returns what is to be run


def data_file(draw: random.Random, folder: Path, sound: "Sound") -> Callable[[], object]:
    rows = draw.choice(sound.rows)
    name, data = _table(draw, [break_value(draw, row) if draw.random() < 0.2 else row for row in rows])
    if draw.random() < 0.7:
        data = break_bytes(draw, data)
    if draw.random() < 0.15:
        name, data = _packed(draw, name, data)
    (folder / name).write_bytes(data)
    source = {"name": "medical", "role": draw.choice(("domain", "general", "retention")), "path": name, "holdout": 4}
    if draw.random() < 0.3:
        source |= draw.choice(
            ({"encoding": draw.choice((*CODECS, "a\0b", "hex", "가"))}, {"text": "text"}, {"question": "q"})
        )
    if draw.random() < 0.25:
        return lambda: sound.init([folder / name], folder / "written.yaml")
    return lambda: sound.inspect(folder, {"sources": [source]})


def _table(draw: random.Random, rows: list[Any]) -> tuple[str, bytes]:
    suffix = draw.choice((".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".yaml", ""))
    lines = "".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) + "\n" for row in rows).encode("utf-8", "replace")
    if suffix == ".json":
        return "data.json", json.dumps(rows).encode()
    if suffix in (".csv", ".tsv"):
        cells = [row if isinstance(row, dict) else {"a": row} for row in rows]
        heads = list(dict.fromkeys(str(key) for row in cells for key in row))
        mark = "," if suffix == ".csv" else "\t"
        table = [heads] + [[str(row.get(head, "")) for head in heads] for row in cells]
        text = "\n".join(mark.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in table)
        return f"data{suffix}", text.encode("utf-8", "replace")
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        out = io.BytesIO()
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
            pq.write_table(pa.Table.from_pylist([row for row in rows if isinstance(row, dict)]), out)
        return "data.parquet", out.getvalue()
    return f"data{suffix}", lines


def _packed(draw: random.Random, name: str, data: bytes) -> tuple[str, bytes]:
    out = io.BytesIO()
    if draw.random() < 0.5:
        out.write(gzip.compress(data))
        name += ".gz"
    else:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(draw.choice((name, "../" + name, "/tmp/" + name, "a/b/" + name)), data)
        name = "data.zip"
    return name, break_bytes(draw, out.getvalue()) if draw.random() < 0.5 else out.getvalue()


def recipe(draw: random.Random, folder: Path, sound: "Sound") -> Callable[[], object]:
    made = sound.recipe(folder)
    made |= draw.choice(
        ({}, {"system": "짧게."}, {"mix": {"weights": {"medical": 2}}}, {"split": {"by": "row", "seed": 3}})
    )
    made["train"] |= draw.choice(({}, {"adapter": {"rank": 4}}, {"too_long": "drop"}, {"loss_on": "last_answer"}))
    text = yaml.safe_dump(break_value(draw, made) if draw.random() < 0.7 else made, allow_unicode=True).encode(
        "utf-8", "replace"
    )
    if draw.random() < 0.5:
        text = break_bytes(draw, text)
    if draw.random() < 0.15:
        text += draw.choice(
            (
                b"\nx: !!bool x\n",
                b"\nx: !!timestamp x\n",
                b"\nx: !!set [a]\n",
                b"\nx: !!python/object/apply:os.system [id]\n",
                _laughs(),
                b"\nx: &x [*x]\n",
                b"\n? {a: b}\n: c\n",
                b"\n<<: *none\n",
                b"\nx: 0o777777777777777777777777\n",
                b"\nx: 1e999999\n",
            )
        )
    (folder / "recipe.yaml").write_bytes(text)
    overrides = [
        draw.choice(
            ("train.steps=2", "sources.medical.take=1/0", "a.b.c=1", "=", "train=", "name=..", "x", "sources[9].path=y")
        )
    ]
    return lambda: sound.load_and_inspect(folder / "recipe.yaml", overrides if draw.random() < 0.2 else [])


def template(draw: random.Random, folder: Path, sound: "Sound") -> Callable[[], object]:
    if draw.random() < 0.5:
        text = "".join(draw.choice(JINJA) for _ in range(draw.randrange(1, 12)))
    else:
        text = draw.choice(sound.templates)
        for _ in range(draw.choice((1, 2, 3))):
            place = draw.randrange(len(text))
            text = draw.choice(
                (text[:place], text[:place] + draw.choice(JINJA) + text[place:], text[:place] + text[place + 7 :])
            )
    if draw.random() < 0.1:
        text = draw.choice(("{% if a %}", "{{ (", "{% for x in y %}", "[")) * draw.choice((90, 5000))
    (folder / "mine.jinja").write_bytes(text.encode() if draw.random() < 0.8 else break_bytes(draw, text.encode()))
    borrow = draw.choice(("mine.jinja", "mine.jinja", "mine.jinja", text[:3000], "no-such", "~x", "a" * 400, "\0"))
    return lambda: sound.inspect(folder, {"template": {"borrow": borrow}})


def tokenizer(draw: random.Random, folder: Path, sound: "Sound") -> Callable[[], object]:
    return _model_file(draw, folder, sound, draw.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json")))


def configuration(draw: random.Random, folder: Path, sound: "Sound") -> Callable[[], object]:
    return _model_file(draw, folder, sound, draw.choice(("config.json", "config.json", "generation_config.json")))


def _model_file(draw: random.Random, folder: Path, sound: "Sound", name: str) -> Callable[[], object]:
    model = Path(shutil.copytree(sound.model, folder / "model"))
    path = model / name
    data = path.read_bytes() if path.is_file() else b"{}"
    if draw.random() < 0.65:
        value = break_value(draw, json.loads(data))
        if isinstance(value, dict) and draw.random() < 0.3:
            key = draw.choice(
                (
                    "num_hidden_layers",
                    "vocab_size",
                    "hidden_size",
                    "model_type",
                    "torch_dtype",
                    "architectures",
                    "auto_map",
                    "rope_scaling",
                    "max_position_embeddings",
                )
            )
            value[key] = draw.choice((10**9, 10**12, -3, 0, "x", [], {}, None, "gpt2", "mamba", 3.5))
        data = json.dumps(value).encode()
    if draw.random() < 0.5:
        data = break_bytes(draw, data)
    path.write_bytes(data)
    return lambda: sound.inspect(folder, {"model": {"path": str(model), "dtype": "float32"}})


def run_folder(draw: random.Random, folder: Path, sound: "Sound") -> Callable[[], object]:
    run = Path(shutil.copytree(sound.run, folder / "run"))
    path = draw.choice(sorted(item for item in run.iterdir() if item.is_file()))
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and draw.random() < 0.5:
        lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
        place = draw.randrange(len(lines))
        lines[place] = json.dumps(break_value(draw, json.loads(lines[place])))
        path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    else:
        path.write_bytes(break_bytes(draw, data))
    return lambda: sound.report(run)


KINDS: dict[str, tuple[int, Callable[[random.Random, Path, "Sound"], Callable[[], object]]]] = {
    "data file": (45, data_file),
    "recipe": (18, recipe),
    "template": (14, template),
    "tokenizer": (8, tokenizer),
    "configuration": (8, configuration),
    "run folder": (7, run_folder),
}


# --- running one input


class Sound:
    """What is not broken: a tiny model, rows, templates, a run folder; and seodang's own functions."""

    def __init__(self, folder: Path) -> None:
        import run_folder as example
        from seodang.pipeline import init, inspect
        from seodang.recipe import load_recipe
        from seodang.show.report import report
        from tiny import make_config, make_model, make_tokenizer

        self._inspect, self._init, self._load_recipe, self.report = inspect, init, load_recipe, report
        self.model, made = folder / "model", make_tokenizer()
        make_model(make_config("llama", len(made))).save_pretrained(self.model)
        made.save_pretrained(self.model)
        self.run = example.write_run(folder / "run")
        self.templates = [
            path.read_text(encoding="utf-8") for path in sorted((ROOT / "src/seodang/templates").glob("*.jinja"))
        ]
        turns = [
            {"role": "user", "content": "날씨?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "서울"}}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "맑음"},
            {"role": "assistant", "content": "맑습니다."},
        ]
        self.rows: list[list[dict[str, Any]]] = [
            [{"question": f"{n}번 약은 언제 먹나요?", "answer": f"{n}번은 식후에 먹습니다."} for n in range(40)],
            [{"messages": [{"role": "user", "content": f"{n}?"}, *turns[1:]]} for n in range(30)],
            [
                {"instruction": f"{n}을 설명해.", "input": "약", "output": f"<think>음</think>{n}입니다."}
                for n in range(30)
            ],
            [
                {
                    "prompt": [{"role": "user", "content": f"{n}"}],
                    "completion": [{"role": "assistant", "content": "답"}],
                }
                for n in range(30)
            ],
            [{"text": f"{n}. 감기는 바이러스가 일으킵니다. " * 4} for n in range(30)],
            [
                {"conversations": [{"from": "human", "value": f"{n}"}, {"from": "gpt", "value": "네"}]}
                for n in range(30)
            ],
        ]

    def recipe(self, folder: Path) -> dict[str, Any]:
        """A sound recipe, whose rows it writes."""
        (folder / "sound.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows[0]), encoding="utf-8")
        return {
            "name": "mine",
            "model": {"path": str(self.model), "dtype": "float32"},
            "template": {"borrow": "chatml"},
            "sources": [{"name": "medical", "role": "domain", "path": "sound.jsonl", "holdout": 4}],
            "train": {"steps": 1, "examples_per_step": 2, "max_tokens": 128},
        }

    def inspect(self, folder: Path, changes: dict[str, Any]) -> object:
        """`seodang inspect` on a sound recipe with other sections."""
        path = folder / "recipe.yaml"
        path.write_text(
            yaml.safe_dump(self.recipe(folder) | changes, allow_unicode=True), encoding="utf-8", errors="replace"
        )
        return self.load_and_inspect(path, [])

    def load_and_inspect(self, path: Path, overrides: list[str]) -> object:
        return self._inspect(self._load_recipe(path, overrides))

    def init(self, files: list[Path], out: Path) -> object:
        return self._init(files, out=out)


def try_one(seed: int, sound: Sound, folder: Path, *, seconds: float, memory_gb: float) -> Tried:
    """Make the input of a seed, run it, and see what becomes of it."""
    from seodang.errors import SeodangError

    draw = random.Random(seed)
    names = list(KINDS)
    kind = draw.choices(names, weights=[KINDS[name][0] for name in names])[0]
    folder.mkdir()
    before_files = _outside(folder)
    run = KINDS[kind][1](draw, folder, sound)
    base = _reset_peak()
    begun = time.process_time()
    outcome, what = "fine", ""
    out = io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), _limits(seconds):
            run()
    except SeodangError as error:
        outcome, what = "refused", str(error)
        if len(what) > 22_000 or max(map(len, what.splitlines())) > 3500:
            outcome, what = "fault", f"a message of {len(what):,} characters: {what[:200]}"
        elif re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", what):
            outcome, what = "fault", f"control characters in the message {what!r}"
    except TooLong:
        outcome, what = "fault", f"over {seconds:g} s\n{traceback.format_exc()}"
    except BaseException as error:
        outcome, what = "fault", f"{type(error).__name__}: {str(error)[:300]}\n{traceback.format_exc()[-3000:]}"
    finally:
        os.chdir(folder.parent)
    taken, grown = time.process_time() - begun, (_peak() - base) / 1e9
    if outcome != "fault":
        if taken > seconds:
            outcome, what = "fault", f"took {taken:.1f} s; {what}"
        elif grown > memory_gb:
            outcome, what = "fault", f"took {grown:.2f} GB; {what}"
        elif "\x1b" in out.getvalue():
            outcome, what = "fault", "a raw escape sequence was printed"
        elif _outside(folder) != before_files:
            outcome, what = "fault", "wrote outside of its folder"
    return Tried(seed=seed, kind=kind, outcome=outcome, what=what, seconds=taken, memory_gb=grown)


@contextlib.contextmanager
def _limits(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds + 1)
    faulthandler.dump_traceback_later(KILL_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    room = psutil.Process().memory_info().data + 6 * 1024**3  # a runaway ends here, not the machine
    resource.setrlimit(resource.RLIMIT_DATA, (room, before[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _outside(folder: Path) -> set[str]:
    return {path.name for path in folder.parent.iterdir()}


def _reset_peak() -> int:
    """Forget the peak of the memory, and return what is taken now, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def _peak() -> int:
    """The most memory that was taken since, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="inputs to try")
    parser.add_argument("--first", type=int, default=0, help="the first seed; each input has the next")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the processor that one input may take")
    parser.add_argument("--memory-gb", type=float, default=1.0, help="by which one input may make the process grow")
    parser.add_argument("--seeds", type=int, nargs="+", help="these alone, such as those of an earlier run's faults")
    parser.add_argument("--keep", type=Path, help="a new folder in which the inputs stay")
    args = parser.parse_args()
    os.environ["SEODANG_CACHE"] = tempfile.mkdtemp(prefix="seodang-cache-")
    os.environ["HF_HUB_OFFLINE"] = "1"
    work = args.keep or Path(tempfile.mkdtemp(prefix="seodang-broken-"))
    (work / "inputs").mkdir(parents=True)
    sound = Sound(work)
    found: list[Tried] = []
    begun = time.perf_counter()
    seeds = args.seeds or range(args.first, args.first + args.count)
    for seed in seeds:
        tried = try_one(seed, sound, work / "inputs" / str(seed), seconds=args.seconds, memory_gb=args.memory_gb)
        found.append(tried)
        if tried.outcome == "fault":
            print(
                f"--- seed {seed}, {tried.kind}, {tried.seconds:.1f} s, {tried.memory_gb:.2f} GB: {tried.what}",
                flush=True,
            )
        if len(seeds) == 1:
            print(f"{tried.kind}: {tried.outcome}: {tried.what}", flush=True)
        if not args.keep:
            shutil.rmtree(work / "inputs" / str(seed), ignore_errors=True)
    if not args.keep:
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(os.environ["SEODANG_CACHE"], ignore_errors=True)
    by_kind = {kind: dict(Counter(tried.outcome for tried in found if tried.kind == kind)) for kind in KINDS}
    print(
        json.dumps(
            {
                "inputs": len(found),
                "first": seeds[0],
                **Counter(tried.outcome for tried in found),
                "by_kind": by_kind,
                "fault_seeds": [tried.seed for tried in found if tried.outcome == "fault"],
                "longest": _most(found, "seconds"),
                "largest": _most(found, "memory_gb"),
                "seconds": round(time.perf_counter() - begun, 1),
            }
        )
    )


def _most(found: list[Tried], name: str) -> dict[str, float]:
    most = max(found, key=lambda tried: float(getattr(tried, name)))
    return {"seed": most.seed, name: round(getattr(most, name), 3)}


if __name__ == "__main__":
    main()
