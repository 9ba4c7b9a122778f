"""How a command ends that could not do what it was asked: one message, and its exit code."""

import sys
from typing import NoReturn

from seodang import distributed
from seodang.errors import SeodangError
from seodang.show.crash_log import write_crash_log
from seodang.show.terminal.console import show_crash, show_error

CRASHED = 70  # exit code of a fault in seodang itself (EX_SOFTWARE of sysexits.h)


def refuse(error: SeodangError) -> NoReturn:
    """The user's mistake: where, what and how to fix it."""
    with distributed.ending(error) as is_reported_here:
        if is_reported_here:
            show_error(error)
    distributed.part_for_exit(error.exit_code, error)
    sys.exit(error.exit_code)


def report_bug(error: Exception) -> NoReturn:
    """One line instead of a traceback, which goes into a log file: what nobody foresaw is our fault, not the user's."""
    with distributed.ending(error) as is_reported_here:
        if is_reported_here:
            show_crash(error, write_crash_log(error))
    distributed.part_for_exit(CRASHED, error)
    sys.exit(CRASHED)
