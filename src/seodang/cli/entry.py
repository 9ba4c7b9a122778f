"""The entry point."""

import io
import os
import signal
import sys
import threading

from seodang import distributed
from seodang.cli import model_commands as model_commands  # the commands join the application as they are imported
from seodang.cli import run_commands as run_commands
from seodang.cli.app import app
from seodang.errors import SeodangError
from seodang.show.terminal.verbosity import silence_libraries


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale's encoding is another (LC_ALL=C with PYTHONUTF8=0, EUC-KR).

    Arrow and tokenizers take the names of files as UTF-8 whatever the locale is: outside of that mode they would not
    find one with Korean in it. Processes that are started later inherit the mode.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    if sys.stdout.encoding not in ("ascii", "utf-8"):  # a terminal goes on in its own
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _end_as_interrupted() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does; a signal that is ignored (nohup) stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _show_fault_of_thread(fault: threading.ExceptHookArgs) -> None:
    """Show what ended a thread; but TensorBoard's raises it again where the next event is written."""
    if type(fault.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(fault)


def main() -> None:
    """The entry point: seodang's own errors become one message and an exit code."""
    _use_utf8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where Korean cannot be written it becomes ?, and nothing stops
    _end_as_interrupted()
    silence_libraries()
    threading.excepthook = _show_fault_of_thread
    try:
        app()
    except SeodangError as error:
        from seodang.show.terminal.ending import refuse

        refuse(error)
    except Exception as error:
        from seodang.run import disk
        from seodang.show.terminal.ending import refuse, report_bug

        if explained := disk.explain(error):  # at any moment; whatever else it may be is our fault
            refuse(explained)
        report_bug(error)
    except SystemExit as ended:
        distributed.part_for_exit(int(ended.code or 0))
        raise
