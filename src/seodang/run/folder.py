"""The run folder: what a run leaves behind, written so that a kill at any moment leaves it readable.

::

    recipe.yaml     manifest.json   counts.json    dropped.jsonl   findings.json   lengths.json   samples.json
    metrics.jsonl   tensorboard/    checkpoints/   answers.jsonl   rows.jsonl      proof.json     report.html
    pictures/       model/          adapter/ (where one was trained; it is merged into the model)
    trackers.json (with train.report_to)
    judgement.json (where another model compared the answers; judgement-NAME.json: with those of another run)
    alpha.json      alpha/ (where weights between base and tuned model were measured: the curve, and what it is from)
"""

import base64
import html
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from seodang.errors import RunError, SeodangError
from seodang.json_values import from_json, json_text
from seodang.recipe import Recipe, load_recipe
from seodang.user_paths import folders_beside, is_file, is_folder, path_argument

T = TypeVar("T")
RECIPE, MANIFEST = "recipe.yaml", "manifest.json"
COUNTS, DROPPED, FINDINGS, LENGTHS, SAMPLES = (
    *("counts.json", "dropped.jsonl", "findings.json"),
    *("lengths.json", "samples.json"),
)
METRICS, BASE, TRAINING, ANSWERS, PROOF = "metrics.jsonl", "base.json", "training.json", "answers.jsonl", "proof.json"
JUDGEMENT = "judgement.json"  # what another model makes of the answers
ALPHA, ALPHA_POINTS = "alpha.json", "alpha"  # the curve; what each alpha measured
ROWS = "rows.jsonl"  # what each held-out row cost both models
HIDDEN_STATES = "hidden_states"  # of the base, until the proof is done
TRACKERS = "trackers.json"  # tracker → id of its run, to resume it
REPORT, PICTURES, TENSORBOARD = "report.html", "pictures", "tensorboard"
TEMPLATE = "chat_template.jinja"  # of the tuned model, as transformers names it
CHECKPOINTS, MODEL, ADAPTER = "checkpoints", "model", "adapter"
CHECKPOINT, UNFINISHED_CHECKPOINT = "checkpoint-", "saving-"  # followed by the step, as transformers names them
TRAINER_STATE = "trainer_state.json"  # of a checkpoint, as transformers names it
CHECKPOINT_FILES = "checkpoint_files.json"  # of a checkpoint: sizes and hashes of the others
MODEL_FILES = "model_files.json"  # sizes and hashes of what is in model/ and adapter/
SHOWN_PICTURES = ("changes", "loss")  # in a notebook, as far as they were drawn
LOCK = ".seodang.lock"
LEFTOVERS = re.compile(rf"\.{MODEL}-\w+|\.{ADAPTER}|\.[\w.-]+\.(json|jsonl|yaml|html)\.\d+")


def a_run(missing: Path) -> str:
    """For a hint where a folder holds no run, or is not there: which one to give."""
    beside = None if is_folder(missing) else folders_beside(missing)
    return beside or "give a run's folder, which `seodang tune` wrote, such as runs/NAME"


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """A run's folder."""

    folder: Path

    def __repr__(self) -> str:
        """Where it is and how far it came, for people."""
        return f"Run {self.folder}: {self._state}"

    def _repr_html_(self) -> str:
        """The same for notebooks, with losses, pictures and where the report is."""
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in self._losses
        )
        head = "<tr><th>Source</th><th>Role</th><th>Base → tuned</th><th>Unit</th><th>Outcome</th></tr>"
        pictures = "".join(
            f'<img alt="{path.stem}" style="max-width: 100%" width="640" src="data:image/png;base64,'
            f'{base64.b64encode(path.read_bytes()).decode()}">'
            for path in (self.pictures / f"{name}.png" for name in SHOWN_PICTURES)
            if path.is_file()
        )
        report = html.escape(str(self.report))
        link = f'<p>Report: <a href="{report}">{report}</a></p>' if self.report.is_file() else ""
        table = f"<table>{head}{rows}</table>" if rows else ""
        return f"<p><b>{html.escape(str(self.folder))}</b>: {html.escape(self._state)}</p>{table}{link}{pictures}"

    @property
    def _losses(self) -> list[tuple[str, str, str, str, str]]:
        """Source, role, both losses, unit and outcome of each source; none where the proof is damaged."""
        try:
            return [
                (
                    name,
                    loss["role"],
                    f"{loss['base'][key]:.3f} → {loss['tuned'][key]:.3f}",
                    loss["unit"],
                    loss["outcome"],
                )
                for name, loss in self._proof("sources").items()
                for key in [loss["unit"].replace(" ", "_")]
            ]
        except (AttributeError, KeyError, TypeError, ValueError):
            return []

    def _proof(self, section: str) -> dict[str, Any]:
        """A section of proof.json as far as it can be read: showing a run must not fail."""
        try:
            return dict(self.read_json(PROOF)[section]) if self.is_proven else {}
        except (SeodangError, OSError, KeyError, ValueError, TypeError):
            return {}

    @property
    def _state(self) -> str:
        verdict = self._proof("verdict")
        if shown := [f"{role} {verdict[role]}" for role in ("domain", "general", "retention") if verdict.get(role)]:
            return ", ".join(shown)
        if self.is_trained:
            return "trained, not measured yet"
        if checkpoint := self.last_checkpoint():
            return f"not finished, checkpoint of step {checkpoint_step(checkpoint)}"
        return "begun, no checkpoint yet" if self.exists else "no run here"

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def adapter(self) -> Path:
        return self.folder / ADAPTER

    @property
    def tensorboard(self) -> Path:
        return self.folder / TENSORBOARD

    @property
    def pictures(self) -> Path:
        return self.folder / PICTURES

    @property
    def hidden_states(self) -> Path:
        return self.folder / HIDDEN_STATES

    @property
    def report(self) -> Path:
        return self.folder / REPORT

    @property
    def recipe_file(self) -> Path:
        return self.folder / RECIPE

    @property
    def manifest_file(self) -> Path:
        return self.folder / MANIFEST

    @property
    def exists(self) -> bool:
        """Whether a run was created here."""
        return is_file(self.recipe_file)

    @property
    def is_trained(self) -> bool:
        """Whether training ended and the best model was saved."""
        return (self.model / "config.json").is_file()

    @property
    def has_template(self) -> bool:
        """Whether the tuned model has a chat template; one that was trained on text alone has what its base had."""
        return (self.model / TEMPLATE).is_file()

    @property
    def has_begun(self) -> bool:
        """Whether anything was measured or trained."""
        return (self.folder / BASE).is_file() or self.is_trained or self.last_checkpoint() is not None

    @property
    def is_proven(self) -> bool:
        return (self.folder / PROOF).is_file()

    @property
    def resume_command(self) -> str:
        """What to type to resume this run from the current folder."""
        if is_file(self.manifest_file):
            return f"seodang tune {path_argument(self.folder)} --resume"
        where = "" if self._lies_at_default else f" --out {path_argument(self.folder)}"
        return f"seodang tune {path_argument(self.recipe_file)} --resume{where}"

    @property
    def _lies_at_default(self) -> bool:
        try:
            return self.folder.absolute() == (Path("runs") / self.recipe().name).absolute()
        except SeodangError:  # a damaged recipe.yaml
            return False

    def recipe(self) -> Recipe:
        """The resolved recipe of the run.

        Raises:
            RunError: this is not a run folder.
            RecipeError: its recipe.yaml is damaged, or of another version.
        """
        if not self.exists:
            what = f"not a run folder: {RECIPE} is missing" if is_folder(self.folder) else "no such folder"
            raise RunError(what, where=str(self.folder), hint=a_run(self.folder))
        return load_recipe(self.recipe_file)

    def trusted_recipe(self, *, trust_remote_code: bool) -> Recipe:
        """The resolved recipe, for whoever loads its models: the folder may be someone else's.

        Args:
            trust_remote_code: whether Python code that comes with a model may run. What a recipe that lies in the
                folder says of it gives no permission.

        Raises:
            RunError: this is not a run folder, or its recipe asks for such code and the caller did not allow it.
            RecipeError: its recipe.yaml is damaged, or of another version.
        """
        recipe = self.recipe()
        if recipe.model.trust_remote_code and not trust_remote_code:
            raise RunError(
                f"this run's model comes with Python code of its own ({recipe.model.path}), which would run here",
                where=str(self.folder),
                hint="if you trust it, allow it with --trust-remote-code (in Python: trust_remote_code=True)",
            )
        return recipe

    def write_json(self, name: str, data: object) -> None:
        path = self.folder / name
        write_text(path, json_text(data, where=str(path), indent=1))

    def read_json(self, name: str) -> Any:
        """Raises:
        RunError: the file is damaged.
        """
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(self.folder / name, error) from None

    def read_value(self, cls: type[T], name: str) -> T | None:
        """The value that a file holds; None: it is not there.

        Raises:
            SeodangError: the file is damaged, or was written by another version of seodang.
        """
        path = self.folder / name
        return from_json(cls, self.read_json(name), where=str(path)) if path.is_file() else None

    def read_values(self, cls: type[T], name: str) -> list[T]:
        """The values that the lines of a file hold, as `read_lines` reads them.

        Raises:
            SeodangError: a line is damaged, or was written by another version of seodang.
        """
        where = self.folder / name
        return [from_json(cls, row, where=f"{where}:{line}") for line, row in enumerate(self.read_lines(name), 1)]

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        path = self.folder / name
        write_text(path, "".join(json_text(row, where=str(path)) + "\n" for row in rows))

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Rows of a JSON Lines file; a last line that a kill cut off is left out.

        Raises:
            RunError: the file is damaged.
        """
        path = self.folder / name
        if not path.is_file():
            return []
        text = path.read_text(encoding="utf-8", errors="replace")  # cut off, perhaps within a character
        try:
            return [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n") if line.strip()]
        except ValueError as error:
            raise _damaged(path, error) from None

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        path = self.folder / name
        text = json_text(row, where=str(path))
        with path.open("a", encoding="utf-8", errors="backslashreplace") as lines:
            lines.write(text + "\n")

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint: one gets its name only when all of it is on disk."""
        found = self.all_checkpoints()
        return found[-1] if found else None

    def all_checkpoints(self) -> list[Path]:
        """Complete checkpoints, the oldest first; whether one was damaged since, `checkpoints.newest_intact` knows."""
        found = [
            (int(match[1]), path)
            for path in self.checkpoints.glob(f"{CHECKPOINT}*")
            if (match := re.fullmatch(rf"{CHECKPOINT}(\d+)", path.name)) and (path / TRAINER_STATE).is_file()
        ]
        return [path for _, path in sorted(found)]

    def rewind(self, step: int) -> None:
        """Forget what was recorded after `step`, checkpoints included: a resumed run records it again."""
        self.write_lines(METRICS, (row for row in self.read_lines(METRICS) if row["step"] <= step))
        newer = [path for path in self.all_checkpoints() if checkpoint_step(path) > step]
        for folder in (*self.unfinished_checkpoints(), *newer):
            shutil.rmtree(folder)

    def unfinished_checkpoints(self) -> list[Path]:
        """Those that were being written when their process ended."""
        return list(self.checkpoints.glob(f"{UNFINISHED_CHECKPOINT}*"))

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed was about to write; only whoever holds the lock may."""
        for path in self.leftovers():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def leftovers(self) -> list[Path]:
        """Files and folders that were never renamed to what they should have become."""
        return [path for path in self.folder.iterdir() if LEFTOVERS.fullmatch(path.name)]


def run_at(path: str | Path) -> Run | None:
    """The run whose folder, or whose own recipe.yaml, lies there, wherever it was moved; None: it is neither."""
    place = Path(path)
    run = Run(folder=place if place.is_dir() else place.parent)
    is_its_own = place.is_dir() or place.name == RECIPE
    return run if is_its_own and run.exists and run.manifest_file.is_file() else None


def checkpoint_step(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    A lone surrogate, of the name of a file that is no UTF-8, is written as JSON and YAML write it: \\udcb0.

    Raises:
        OSError: the disk does not allow it; it names the file itself.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
        aside.replace(path)
    except BaseException as error:
        with suppress(OSError):  # a folder that may not be written refuses this too
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def _damaged(path: Path, error: ValueError) -> RunError:
    hint = "remove it, and resume or prove the run again"
    return RunError(f"is damaged: {error}", where=str(path), hint=hint)
