"""Experiment trackers (wandb, mlflow, trackio): they get the numbers that TensorBoard gets, and the training settings.

transformers' callbacks are not used. They describe a run by Trainer's arguments, in which a batch of 1 is a whole step
here; they do not know the base's evaluation, start a second run when one is resumed, and MLflow's writes `_` for each
letter of a Korean source. No rows, questions or answers are sent.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

from seodang.errors import ResourceError, first_line
from seodang.recipe import Recipe
from seodang.run.folder import TRACKERS, Run

PROJECT = "seodang"  # where wandb and trackio file the run, unless WANDB_PROJECT names another


class Tracker(Protocol):
    """One tracker's run."""

    id: str  # by which it is resumed

    def log(self, scalars: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Wandb:
    """Weights & Biases; `WANDB_MODE=offline` needs no account."""

    def __init__(self, name: str, settings: Mapping[str, Any], run_id: str | None) -> None:
        import wandb

        project, resume = os.environ.get("WANDB_PROJECT", PROJECT), "allow" if run_id else None
        self._run = wandb.init(
            project=project, name=name, config=dict(settings), id=run_id, resume=resume, reinit="create_new"
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")  # its own step cannot go back, as it does on resume
        self.id = str(self._run.id)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._run.log({**scalars, "step": step})

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """MLflow; `MLFLOW_TRACKING_URI` names a server or folder, `MLFLOW_EXPERIMENT_NAME` the experiment."""

    def __init__(self, name: str, settings: Mapping[str, Any], run_id: str | None) -> None:
        import mlflow

        self._mlflow = mlflow
        found = mlflow.start_run(run_id=run_id, run_name=name, nested=mlflow.active_run() is not None)
        self.id = str(found.info.run_id)
        if run_id is None:  # a parameter cannot be changed
            mlflow.log_params(dict(settings))

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(scalars), step=step, run_id=self.id, synchronous=False)

    def close(self) -> None:
        self._mlflow.flush_async_logging()
        self._mlflow.end_run()


class Trackio:
    """Trackio; on this machine unless `TRACKIO_SPACE_ID` names a Space of the hub."""

    def __init__(self, name: str, settings: Mapping[str, Any], run_id: str | None) -> None:
        import trackio

        self._trackio, resume = trackio, "allow" if run_id else "never"
        self._run = trackio.init(PROJECT, name=run_id or name, config=dict(settings), resume=resume, embed=False)
        self.id = str(self._run.name)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._trackio.finish()


KINDS: Mapping[str, Callable[[str, Mapping[str, Any], str | None], Tracker]] = {
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


class Trackers:
    """The trackers of one run. One that fails is reported and left out: training does not depend on it."""

    def __init__(self, names: Sequence[str], run: Run, *, on_note: Callable[[str], None]) -> None:
        """Starts each tracker's run, or resumes the one that this run's folder names.

        Raises:
            ResourceError: a tracker cannot be started.
        """
        self._on_note = on_note
        self._open: dict[str, Tracker] = {}
        if not names:
            return
        recipe = run.recipe()
        ids = run.read_json(TRACKERS) if (run.folder / TRACKERS).is_file() else {}
        for name in names:
            try:
                self._open[name] = KINDS[name](run.folder.resolve().name, tracked_settings(recipe), ids.get(name))
            except Exception as error:  # of a foreign library, for reasons of its own: login, server, versions
                self.__exit__()
                hint = f"set {name} up, or leave it out of train.report_to; then resume: {run.resume_command}"
                raise ResourceError(
                    f"{name} cannot be started: {first_line(error)}", where="train.report_to", hint=hint
                ) from error
            ids |= {name: self._open[name].id}
            run.write_json(TRACKERS, ids)  # another one may not start: this one's run is resumed too

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Args:
        scalars: name → value, as in TensorBoard.
        """
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(scalars, step))  # type: ignore[misc]

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._open.pop(name)
            self._on_note(f"{name} failed and is left out from here on ({first_line(error)}); metrics.jsonl has it all")


def tracked_settings(recipe: Recipe) -> dict[str, Any]:
    """What a tracker is given to compare runs by: dotted key → value. No paths, no texts."""
    sections = recipe.model_dump(mode="json", include={"mix", "split", "train"})
    model = recipe.model.path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return {"model": model, "model.dtype": recipe.model.dtype, **dict(_flat(sections))}


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    return [
        pair
        for key, value in section.items()
        for pair in (_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)])
    ]
