"""The entry point."""

import io
import signal
import sys

from seodang import distributed
from seodang.cli import model_commands as model_commands  # the commands join the application as they are imported
from seodang.cli import run_commands as run_commands
from seodang.cli.app import app
from seodang.errors import SeodangError
from seodang.show.terminal.verbosity import silence_libraries


def _end_as_interrupted() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does; a signal that is ignored (nohup) stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def main() -> None:
    """The entry point: seodang's own errors become one message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where Korean cannot be written it becomes ?, and nothing stops
    _end_as_interrupted()
    silence_libraries()
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
