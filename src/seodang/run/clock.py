"""How long each stage of a run takes, in seconds; all starts of a run that was resumed are added up."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from seodang import distributed
from seodang.errors import SeodangError
from seodang.run.evidence import read_manifest
from seodang.run.folder import Run
from seodang.run.record import record_seconds


class StageClock:
    """Times the stages, and keeps the run's manifest up to date once it is there: a run may end at any moment."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._earlier: Mapping[str, float] = {}
        self._run: Run | None = None

    @property
    def total(self) -> dict[str, float]:
        """Stage → seconds of all starts so far."""
        stages = [*self._earlier, *(stage for stage in self._seconds if stage not in self._earlier)]
        return {stage: round(self._earlier.get(stage, 0.0) + self._seconds.get(stage, 0.0), 2) for stage in stages}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Inside, a stage runs; an interruption counts as its end."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = time.perf_counter() - begun
            with suppress(OSError, SeodangError):  # whatever ended the stage is the error to report
                self._save()

    def attach(self, run: Run) -> None:
        """Begin to write to the run's manifest, which is there; it holds what earlier starts took."""
        if distributed.is_main() and (manifest := read_manifest(run)):
            self._run, self._earlier = run, dict(manifest.seconds)
            self._save()

    def _save(self) -> None:
        if self._run:
            record_seconds(self._run, self.total)
