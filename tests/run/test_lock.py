"""lock: one process at a time works on a run; what a dead one left behind counts for nothing."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seodang.errors import ResourceError, RunError, Stopped
from seodang.run import lock
from seodang.run.folder import Run

HOLD = """
import sys, time
from pathlib import Path
from seodang.run import lock
from seodang.run.folder import Run
with lock.guarded():
    lock.acquire(Run(folder=Path(sys.argv[1])))
    print("held", flush=True)
    time.sleep(60)
"""


@lock.guarded()
def _work(run: Run, error: Exception | None = None, *, times: int = 1) -> None:
    """Take the run, and meet an error there."""
    for _ in range(times):
        lock.acquire(run)
    if error:
        raise error


def _holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    """The message names pid and host; after kill -9 the folder is free, though the file is still there."""
    run = Run(folder=tmp_path)
    process = _holder(tmp_path)
    try:
        with pytest.raises(RunError, match=f"process {process.pid} on {socket.gethostname()} is working"):
            _work(run)
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / ".seodang.lock").is_file()
    with lock.guarded():
        lock.acquire(run)
        assert json.loads((tmp_path / ".seodang.lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".seodang.lock").exists()


def test_one_process_takes_a_run_once(tmp_path: Path) -> None:
    """Two threads of a process, or two calls, do not work on one run either; an error gives it back."""
    run = Run(folder=tmp_path)
    with pytest.raises(RunError, match="is working on this run"):
        _work(run, times=2)
    with lock.guarded():
        lock.acquire(run)


def test_a_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    """A worker that was forked and outlives its parent does not stand in the way."""
    run = Run(folder=tmp_path)
    with lock.guarded():
        lock.acquire(run)
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with lock.guarded():
            lock.acquire(run)
            assert json.loads((tmp_path / ".seodang.lock").read_text())["pid"] == os.getpid()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_where_the_file_system_has_no_locks_the_owner_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pid that is gone, or that another process bears now, is stale; one on another host may be alive."""

    def no_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    run = Run(folder=tmp_path)
    me = {"pid": os.getpid(), "host": socket.gethostname(), "started": 1.0}
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for stale in (me, {**me, "pid": ended.pid}):
        (tmp_path / ".seodang.lock").write_text(json.dumps(stale), encoding="utf-8")
        with lock.guarded():
            lock.acquire(run)
    (tmp_path / ".seodang.lock").write_text(json.dumps({**me, "host": "elsewhere"}), encoding="utf-8")
    with pytest.raises(RunError, match=r"on elsewhere is working(?s:.)*remove .*seodang\.lock"):
        _work(run)


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    """Whoever meets it (Python, torch, safetensors), the message says what is left; an unfinished checkpoint goes."""
    run = Run(folder=tmp_path)
    run.recipe_file.write_text("", encoding="utf-8")
    (run.checkpoints / "checkpoint-4").mkdir(parents=True)
    (run.checkpoints / "checkpoint-4" / "trainer_state.json").write_text("{}", encoding="utf-8")
    errors = (
        OSError(28, "No space left on device", str(tmp_path / "proof.json")),
        OSError(27, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/3"),
        ValueError("I/O error: No space left on device (os error 28)"),
    )
    for error in errors:
        (run.checkpoints / "saving-6").mkdir()
        with pytest.raises(ResourceError, match=r"checkpoint of step 6 could not(?s:.)*step 4 is whole"):
            _work(run, error)
        assert not (run.checkpoints / "saving-6").exists()
    with pytest.raises(OSError, match="Input/output"):
        _work(run, OSError(5, "Input/output error"))


def test_a_file_that_may_not_be_written_is_one_error(tmp_path: Path) -> None:
    """The message names the file and the whole command that resumes the run."""
    run = Run(folder=tmp_path)
    run.recipe_file.write_text("", encoding="utf-8")
    for number in (errno.EACCES, errno.EPERM, errno.EROFS):
        error = OSError(number, os.strerror(number), str(tmp_path / "proof.json"))
        with pytest.raises(ResourceError) as caught:
            _work(run, error)
        assert caught.value.where == str(tmp_path / "proof.json")
        assert caught.value.hint.endswith(f"folder, then resume: {run.resume_command}")


def test_where_no_run_was_created_nothing_is_resumed(tmp_path: Path) -> None:
    """A disk that is full at the run's first file: no command is given that could not work."""
    with pytest.raises(ResourceError) as caught:
        _work(Run(folder=tmp_path), OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.hint == "free some space"


def test_ctrl_c_names_what_resumes_the_run(tmp_path: Path) -> None:
    """An interruption names what to type where `tune` had begun a run; before that, and elsewhere, it says nothing."""
    run = Run(folder=tmp_path)

    def interrupted(*, is_tuning: bool, begins: bool) -> KeyboardInterrupt:
        try:
            with lock.guarded(is_tuning=is_tuning):
                lock.acquire(run)
                if begins:
                    run.recipe_file.touch()
                raise KeyboardInterrupt
        except KeyboardInterrupt as stopped:
            return stopped

    assert str(interrupted(is_tuning=True, begins=False)) == ""
    stopped = interrupted(is_tuning=True, begins=True)
    assert isinstance(stopped, Stopped)
    assert str(stopped).endswith(f"to resume:\n  {run.resume_command}")
    assert str(interrupted(is_tuning=False, begins=True)) == ""
