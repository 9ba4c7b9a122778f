#!/usr/bin/env python3
"""Interrupt a tiny run at random moments, resume it, and compare its weights with those of an unbroken run.

A trial is a run with an adapter and dropout, or of all weights, with early stopping, that is hit at a random moment by
kill -9, SIGTERM, SIGHUP, Ctrl-C or a disk that fills up; or killed, and one of its files cut short. Then it is resumed
until it ends, hit again once in three times. It has to end with the unbroken run's weights, bit for bit, or in one
message without a traceback; after such a message the file that it names is removed and the run resumed once more.

Processes are forked after the imports: 100 trials take 10 to 20 minutes on one core. Needs no network. The disk is a
tmpfs where mounting is allowed, else the size of files is limited.

    python benchmarks/kill_and_resume.py --trials 100 --seed 0
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import transformers

import tiny
from seodang import cli
from seodang.run.folder import LOCK, Run
from tiny_recipe import tiny_recipe

SIGNALS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP, "Ctrl-C": signal.SIGINT}
KINDS = (*SIGNALS, "full disk", "cut file")
VARIANTS: dict[str, dict[str, Any]] = {
    "adapter": {"adapter": {"rank": 4, "dropout": 0.2}, "learning_rate": "3e-1"},
    "all weights": {"learning_rate": "1e-1"},
}
MOST_SECONDS = 300  # of one start
MOST_STARTS = 6  # of one trial


@dataclass
class Trial:
    """One run and what happened to it."""

    number: int
    variant: str
    kind: str
    folder: Path  # holds the run, logs and the recipe
    luck: random.Random

    @property
    def run(self) -> Run:
        return Run(folder=self.folder / "disk" / "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, to repeat one")
    parser.add_argument("--keep", action="store_true", help="keep the folders of trials that failed")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    os.environ["SEODANG_CACHE"] = str(work / "cache")
    begun, outcomes, failed = time.perf_counter(), Counter[str](), list[str]()
    try:
        unbroken = {name: _unbroken(work / name.replace(" ", "-"), name) for name in VARIANTS}
        for number in range(args.first, args.first + args.trials):
            luck = random.Random(f"{args.seed}/{number}")
            variant, kind = luck.choice(list(VARIANTS)), KINDS[number % len(KINDS)]
            trial = Trial(number=number, variant=variant, kind=kind, folder=work / f"trial-{number}", luck=luck)
            weights, seconds = unbroken[variant]
            outcome, notes = _try(trial, weights, seconds)
            outcomes[f"{kind}: {outcome}"] += 1
            print(f"{number:4d} {variant:12s} {kind:10s} {outcome}; {'; '.join(notes)}", flush=True)
            if outcome.startswith("FAILED"):
                failed.append(f"{number} ({variant}, {kind}): {outcome}")
            if not (args.keep and outcome.startswith("FAILED")):
                _remove(trial)
    finally:
        if not (args.keep and failed):
            shutil.rmtree(work, ignore_errors=True)
    print(json.dumps({"seconds": round(time.perf_counter() - begun), "outcomes": outcomes, "failed": failed}, indent=1))
    sys.exit(bool(failed))


def _unbroken(folder: Path, variant: str) -> tuple[bytes, float]:
    """Weights of a run that nothing happens to, and the seconds that it takes."""
    trial = Trial(number=-1, variant=variant, kind="none", folder=folder, luck=random.Random(0))
    _make(trial)
    _ended(_start(trial, resume=False))  # fills the cache of prepared rows
    shutil.rmtree(trial.run.folder)
    begun = time.perf_counter()
    status = _ended(_start(trial, resume=False))
    seconds = time.perf_counter() - begun
    if status != 0:
        raise AssertionError(f"the unbroken run ended with {status}:\n{_log(trial)}")
    checkpoint = trial.run.last_checkpoint()
    assert checkpoint, _log(trial)
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    steps, best = state["global_step"], state["best_global_step"]
    print(f"unbroken, {variant}: {seconds:.1f} s, {steps} steps, best {best}", flush=True)
    return _weights(trial.run), seconds


def _try(trial: Trial, expected: bytes, seconds: float) -> tuple[str, list[str]]:
    """How a trial ended, and what happened on the way."""
    notes: list[str] = []
    _make(trial)
    _mount(trial)
    process = _start(trial, resume=False)
    notes.append(_hit(trial, process, trial.luck.uniform(0.0, seconds)))
    if trial.luck.random() < 1 / 3:
        process = _start(trial, resume=_is_resumable(trial.run))
        notes.append(_hit(trial, process, trial.luck.uniform(0.0, seconds)))
    for _ in range(MOST_STARTS):
        status = _ended(_start(trial, resume=_is_resumable(trial.run)))
        log = _log(trial)
        if status is None:
            return "FAILED: it does not end", notes
        if "Traceback" in log or status not in (0, 1, 2):
            return f"FAILED: status {status}: {log[-800:]}", notes
        if status == 0:
            same = _weights(trial.run) == expected
            left = [path.name for path in (*trial.run.leftovers(), *trial.run.unfinished_checkpoints())]
            if left:
                return f"FAILED: left behind {left}", notes
            ended = "equal after a message" if any("message" in note for note in notes) else "equal"
            return ended if same else "FAILED: other weights", notes
        error = log[log.rindex("error: ") :].strip()
        notes.append("message: " + " ".join(error.split())[:160])
        if not _follow(trial, error):
            return f"FAILED: no way on: {error}", notes
    return "FAILED: too many starts", notes


def _hit(trial: Trial, pid: int, delay: float) -> str:
    """Interrupt a start after `delay` seconds, and wait until it has ended."""
    until = time.monotonic() + delay
    while time.monotonic() < until:
        if (ended := os.waitpid(pid, os.WNOHANG))[0]:
            return f"ended by itself with {os.waitstatus_to_exitcode(ended[1])}"
        time.sleep(0.005)
    if trial.kind == "full disk":
        return f"disk full after {delay:.2f} s: " + _fill_disk(trial, pid)
    os.kill(pid, SIGNALS.get(trial.kind, signal.SIGKILL))
    status = _ended(pid)
    note = f"{trial.kind} after {delay:.2f} s: {status}"
    if trial.kind == "cut file" and trial.run.folder.is_dir():
        files = sorted(path for path in trial.run.folder.rglob("*") if path.is_file() and path.name != "recipe.yaml")
        if files:
            file = trial.luck.choice(files)
            size = file.stat().st_size
            os.truncate(file, trial.luck.randrange(size) if size else 0)
            note += f", {file.relative_to(trial.run.folder)} cut to {file.stat().st_size} of {size}"
    if status is None or "Traceback" in _log(trial):
        note += f" TRACEBACK {_log(trial)[-600:]}"
    return note


def _fill_disk(trial: Trial, pid: int) -> str:
    """Leave nothing, or a little, of the disk; the start has to end with one message or as if nothing had been."""
    filler = trial.folder / "disk" / "filler"
    left = trial.luck.choice((0, 4096, 65536, 262144))
    if _is_mounted(trial):
        os.kill(pid, signal.SIGSTOP)  # so that it takes no space that was just counted as free
        free = shutil.disk_usage(filler.parent).free
        with filler.open("wb") as file:
            if free > left:
                os.posix_fallocate(file.fileno(), 0, free - left)
        os.kill(pid, signal.SIGCONT)
    else:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (left, left))
    status = _ended(pid)
    filler.unlink(missing_ok=True)
    log = _log(trial)
    if status not in (0, 2) or "Traceback" in log:
        return f"TRACEBACK status {status}: {log[-800:]}"
    ending = "ended" if status == 0 else "message: " + " ".join(log[log.rindex("error: ") :].split())[:160]
    return f"{left} bytes left: {ending}"


def _follow(trial: Trial, error: str) -> bool:
    """Do what the message says: remove the file that it names."""
    for path in sorted(trial.run.folder.rglob("*"), key=lambda path: -len(str(path))):
        if re.search(rf"{re.escape(str(path))}(?![\w/.])", error) and path != trial.run.folder:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return True
    return False


def _make(trial: Trial) -> None:
    (trial.folder / "disk").mkdir(parents=True)
    base = trial.folder.parent / "base"
    if not base.is_dir():
        _in_child(lambda: _write_base(base))
    tiny_recipe(
        trial.folder, base, steps=24, eval_every=2, early_stopping={"patience": 2}, keep_checkpoints=2, ask_every=4,
        **VARIANTS[trial.variant],
    )  # fmt: skip


def _write_base(folder: Path) -> None:
    tokenizer = tiny.make_tokenizer()
    model = tiny.make_model(tiny.make_config("llama", len(tokenizer), attention_dropout=0.1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _is_resumable(run: Run) -> bool:
    """Whether there is more than what a process that was killed at its first file leaves."""
    left = {LOCK, *(path.name for path in run.leftovers())} if run.folder.is_dir() else set()
    return run.folder.is_dir() and any(path.name not in left for path in run.folder.iterdir())


def _start(trial: Trial, *, resume: bool) -> int:
    """Fork a process that runs `seodang tune`; its pid."""
    arguments = ["tune", str(trial.folder / "recipe.yaml"), "--out", str(trial.run.folder), *(["--resume"] * resume)]

    def work() -> None:
        log = os.open(trial.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["seodang", *arguments]
        cli.main()

    return _fork(work)


def _fork(work: Callable[[], None]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _in_child(work: Callable[[], None]) -> None:
    if status := _ended(_fork(work)):
        raise AssertionError(f"ended with {status}")


def _ended(pid: int) -> int | None:
    """Exit status, negative for a signal; none: it had to be killed."""
    until = time.monotonic() + MOST_SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _weights(run: Run) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


def _log(trial: Trial) -> str:
    path = trial.folder / "log"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _mount(trial: Trial) -> None:
    if trial.kind == "full disk":
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(trial.folder / "disk")]
        subprocess.run(command, capture_output=True, check=False)


def _is_mounted(trial: Trial) -> bool:
    return os.path.ismount(trial.folder / "disk")


def _remove(trial: Trial) -> None:
    if _is_mounted(trial):
        subprocess.run(["umount", "-l", str(trial.folder / "disk")], check=False)
    shutil.rmtree(trial.folder, ignore_errors=True)


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    main()
