"""Starts Python programs as forks of a process that has imported what takes seconds, one program at a time.

python forked.py

Reads programs from stdin, one JSON object a line, and prints for each its process id, and its exit code at its end.
A program has a process, an environment and a folder of its own, and ends as a Python that was started for it does.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

IMPORTS = ("torch", "rank_jobs", "seodang.pipeline", "seodang.cli.entry")


def next_program() -> dict[str, Any] | None:
    """The program that this process has become a fork for; None once stdin has closed."""
    for line in iter(sys.stdin.readline, ""):
        program: dict[str, Any] = json.loads(line)
        child = os.fork()
        if not child:
            return program
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def run(program: dict[str, Any]) -> None:
    """Run what stands behind `python` on a command line: `-c CODE`, `-m MODULE` or a file, with arguments."""
    for name, stream in (("/dev/null", 0), (program["out"], 1), (program["err"], 2)):
        os.dup2(os.open(name, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.clear()
    os.environ.update(program["env"])
    os.chdir(program["cwd"])
    kind, *rest = program["arguments"]
    if kind in ("-c", "-m"):
        what, *rest = rest
        sys.path[0] = program["cwd"]
        sys.argv = ["-c" if kind == "-c" else what, *rest]
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(kind).parent)
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    for name in IMPORTS:
        importlib.import_module(name)
    if program := next_program():
        run(program)
