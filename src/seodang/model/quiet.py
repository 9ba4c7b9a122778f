"""transformers without its log lines, warnings and bars: what matters is said by seodang."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils.tqdm import enable_progress_bars
from transformers.utils import logging

from seodang.hub_access.contact import quiet_retries


@contextmanager
def quiet() -> Iterator[None]:
    """Silence inside; the bars of downloads stay, because gigabytes take minutes."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), quiet_retries():
            warnings.simplefilter("ignore")
            enable_progress_bars()
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
