"""How much is printed: all, or what a reader needs while it runs; and nothing that libraries say of themselves.

Imports nothing heavy: the command line settles both before anything else is loaded.
"""

import logging
import os
import sys
import warnings

_verbosity = {"is_verbose": False}  # of this process, as its stdout is


def set_verbose(is_verbose: bool) -> None:
    """Whether all is printed from now on: every setting, stage, row, question and remark."""
    _verbosity["is_verbose"] = is_verbose


def is_verbose() -> bool:
    """Whether all is printed. What is not is in the run folder and its report."""
    return _verbosity["is_verbose"]


def silence_libraries() -> None:
    """Keep warnings and log lines of libraries out of the terminal: what matters is reported by seodang itself.

    PYTHONWARNINGS and the variables below, set by the user, bring them back.
    """
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if logging.lastResort:  # of loggers without a handler of their own: matplotlib's, peft's
        logging.lastResort.setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
