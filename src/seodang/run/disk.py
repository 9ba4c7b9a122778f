"""A disk that is full or may not be written to: told apart from other failures, and reported once."""

import errno
import shutil
from pathlib import Path

from seodang.errors import ResourceError, SeodangError
from seodang.run.folder import Run, checkpoint_step

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
# safetensors and torch write by themselves, and report no errno
SENTENCES = (
    *("no space left", "os error 28", "file too large", "os error 27"),
    *("pytorchstreamwriter", "file write failed"),
)


def is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written for want of space; a size limit of the user counts too."""
    if isinstance(error, SeodangError):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in NO_SPACE
    return any(sentence in str(error).lower() for sentence in SENTENCES)


def is_refused(error: BaseException) -> bool:
    """Whether a file may not be read or written."""
    return isinstance(error, OSError) and error.errno in NO_RIGHT


def explain(error: BaseException, run: Run | None = None) -> ResourceError | None:
    """The error that says what the disk does not allow; none where it is another failure.

    Args:
        run: that was worked on; what it had not finished writing goes.
    """
    if run and run.exists and is_disk_full(error):
        return _explain_full_disk(error, run)
    if not is_disk_full(error) and not is_refused(error):
        return None
    hint = "free some space" if is_disk_full(error) else "check its permissions, or give another folder"
    return ResourceError(
        (getattr(error, "strerror", None) or str(error)).lower(),
        where=_known_place(getattr(error, "filename", None)),
        hint=f"{hint}, then resume: {run.resume_command}" if run and run.exists else hint,
    )


def _known_place(file: object) -> str:
    """A file as the user knows it: for one that is written under a hidden name at first, its folder."""
    if not isinstance(file, str | Path):
        return "disk"
    return str(Path(file).parent if Path(file).name.startswith(".") else file)


def _explain_full_disk(error: BaseException, run: Run) -> ResourceError:
    """What could not be written, and what is left to resume from."""
    unfinished = run.unfinished_checkpoints()
    for folder in unfinished:
        shutil.rmtree(folder, ignore_errors=True)
    file = getattr(error, "filename", None)
    name = Path(file).name if isinstance(file, str) else ""
    steps = [f"the checkpoint of step {checkpoint_step(folder):,}" for folder in unfinished]
    what = steps[0] if steps else name
    checkpoints = run.all_checkpoints()
    if run.is_trained:
        kept = "the tuned model is saved"
    elif checkpoints:
        kept = f"the checkpoint of step {checkpoint_step(checkpoints[-1]):,} is whole"
    else:
        kept = "training had written no checkpoint yet"
    return ResourceError(
        "no space left on the disk" + (f": {what} could not be written" if what else ""),
        where=str(run.folder),
        hint=f"free some space, then resume ({kept}): {run.resume_command}",
    )
