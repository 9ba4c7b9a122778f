"""Several processes: two gloo ranks on the CPU against one process, in losses, checkpoints, files and errors."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rank_jobs
from command import json_lines, qa_rows
from held_out import measured_by_rank
from launched import Ended, launch
from seodang import distributed
from seodang.errors import RecipeError, ResourceError, RunError
from seodang.run.checkpoints import newest_intact
from seodang.run.folder import CHECKPOINT_FILES, Run
from seodang.run.sealed import files_below

JOBS = Path(rank_jobs.__file__)
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
Reports = list[dict[str, Any]]


def _together(job: str, folder: Path, **env: str) -> tuple[Reports, list[Ended]]:
    """What each of two ranks reports of a job."""
    ended = launch(JOBS, job, folder, cwd=folder, **env)
    assert [end.code for end in ended] == [0, 0], "\n".join(end.err[-2000:] for end in ended)
    return [json.loads((folder / f"{job}.{rank}.json").read_text(encoding="utf-8")) for rank in range(2)], ended


def _write_recipe(folder: Path, model: Path) -> None:
    (folder / "data.jsonl").write_text(json_lines(qa_rows(30)), encoding="utf-8")
    recipe = {
        "name": "tiny",
        "model": {"path": str(model), "dtype": "float32"},
        "template": "chatml",
        "sources": [{"name": "medical", "role": "domain", "path": "data.jsonl", "holdout": 5}],
        "train": {"steps": 4, "examples_per_step": 4, "max_tokens": 128, "learning_rate": 1e-3, "eval_every": 2},
        "ask": {"domain": ["약은요?"], "repeat": {"question": "감기약은요?", "times": 3}, "holdout": 2,
                "holdout_tokens": 4, "generate": {"max_new_tokens": 6}},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The training by a single process."""
    return rank_jobs.run_training(tmp_path_factory.mktemp("alone"))[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks train; in `one` lies what a single process began."""
    folder = tmp_path_factory.mktemp("ddp")
    assert rank_jobs.interrupted(folder / "one", rank=0)["stopped"]
    return folder


@pytest.fixture(scope="module")
def together(folder: Path) -> Reports:
    return _together("ddp", folder)[0]


@pytest.fixture(scope="module")
def sharded(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    folder = tmp_path_factory.mktemp("fsdp")
    _write_recipe(folder, tiny_folder)
    return _together("fsdp", folder, **SHARDED)[0]


def _assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("losses", "evaluations"):
        assert found[name].keys() == expected[name].keys()
        np.testing.assert_allclose(list(found[name].values()), list(expected[name].values()), rtol=1e-5)
    assert found["best_step"] == expected["best_step"]
    assert found["checkpoints"] == expected["checkpoints"]
    assert found["norm"] == pytest.approx(expected["norm"], rel=1e-5)


def test_two_ranks_give_the_losses_and_the_best_checkpoint_of_one(alone: dict[str, Any], together: Reports) -> None:
    """DDP: every loss, evaluation and the best step are a single process's, also in a step of one row."""
    assert alone["best_step"] < 12
    for reported in together:
        _assert_same(reported["unbroken"], alone)
    assert together[0]["unbroken"] == together[1]["unbroken"]


def test_ranks_meet(together: Reports) -> None:
    """The main rank prepares before the other, work is shared in order, and one rank's error is raised by both."""
    main, other = (reported["meeting"] for reported in together)
    assert (main["is_prepared"], other["is_prepared"]) == (False, True)
    assert main["spread"] == other["spread"] == ["0 by 0", "1 by 1", "2 by 0"]
    assert main["error"] == other["error"] == "run: is lost\n  → find it"
    assert (main["tells"], other["tells"]) == (True, False)


def test_two_ranks_measure_what_one_does(together: Reports, tmp_path: Path) -> None:
    """Rows, their answers behind other prompts and their divergence: shared, and the numbers of a single process."""
    alone = measured_by_rank(tmp_path)
    for row, other in zip(together[0]["rows"], together[1]["rows"], strict=True):
        assert row == {**other, "where": row["where"]}
    for row, expected in zip(together[0]["rows"], alone, strict=True):
        assert row["contrast"]["prompts"] == expected["contrast"]["prompts"]
        assert row["contrast"]["form"] == expected["contrast"]["form"]
        for name in ("base", "tuned"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5)
            assert row["contrast"][name]["foreign"] == pytest.approx(expected["contrast"][name]["foreign"], rel=1e-5)
        assert row["kl"] == pytest.approx(expected["kl"], rel=1e-4)


def test_compiled_layers_are_trained_by_two_ranks(together: Reports) -> None:
    """DDP sums the gradients of compiled layers as those of layers as written; all ranks compile, or none."""
    for reported in (rank["compiled"] for rank in together):
        assert reported["graphs"] > 0
        assert reported["difference"] < 1e-5
        assert reported["norm"] == together[0]["compiled"]["norm"]
        assert reported["chosen"]["none"] == [True, False]
        is_compiled, _, remark = reported["chosen"]["rank 1"]
        assert not is_compiled
        assert "output differs (3.0e-01)" in remark


def test_all_ranks_stop_if_one_is_interrupted(together: Reports) -> None:
    """A SIGINT that reaches one rank ends training on both at the same step, with a checkpoint."""
    for reported in together:
        assert reported["two"]["stopped"]
        assert max(map(int, reported["two"]["losses"])) == rank_jobs.INTERRUPTED + 1
        assert reported["two"]["checkpoints"][-1] == f"checkpoint-{rank_jobs.INTERRUPTED + 1}"


def test_all_ranks_know_of_a_late_interruption(together: Reports) -> None:
    """A SIGINT that reaches one rank after the last checkpoint: none measures the model while the other ends."""
    for reported in together:
        assert not reported["one"]["stopped"]
        assert reported["one"]["interrupted"]


def test_a_run_of_two_ranks_is_resumed_by_one(alone: dict[str, Any], together: Reports, folder: Path) -> None:
    """What two ranks began, a single process ends as if it had done all of it."""
    _, resumed = rank_jobs.run_training(folder / "two")
    begun = together[0]["two"]
    joined = {name: begun[name] | resumed[name] for name in ("losses", "evaluations")}
    _assert_same({**resumed, **joined}, alone)


def test_a_run_of_one_process_is_resumed_by_two(alone: dict[str, Any], together: Reports) -> None:
    """What a single process began, two ranks end with its losses and its best checkpoint."""
    resumed = together[0]["one"]
    assert min(map(int, resumed["losses"])) > rank_jobs.INTERRUPTED
    expected = {
        name: {step: loss for step, loss in alone[name].items() if step in resumed[name]}
        for name in ("losses", "evaluations")
    }
    _assert_same(resumed, {**alone, **expected})


@pytest.mark.parametrize(("kind", "tied"), [("gemma3", True), ("llama", False)])
def test_sharded_ranks_give_the_losses_of_one(kind: str, tied: bool, sharded: Reports, tmp_path: Path) -> None:
    """FSDP2: weights are DTensors, and losses and best checkpoint a single process's, with a tied head or its own."""
    expected = rank_jobs.run_training(tmp_path, kind=kind, tied=tied)[1]
    for reported in sharded:
        assert reported[kind]["are_sharded"]
        _assert_same(reported[kind], expected)


def test_the_line_ends_with_whole_weights_after_sharded_training(sharded: Reports) -> None:
    """Under FSDP2 the line asks during training, saves a plain model and proves it; a run cannot change over to DDP."""
    run = Run(folder=Path(sharded[0]["run"]))
    assert run.is_trained
    assert run.is_proven
    events = [row["event"] for row in run.read_lines("metrics.jsonl")]
    assert events.count("train") == 4
    assert events.count("answers") == 1
    with pytest.raises(RunError, match="begun with FSDP2"):
        rank_jobs.run_training(run.folder.parent / "gemma3")


LONE = """
import atexit
from unittest.mock import patch
from seodang import distributed
from seodang.cli import main
from seodang.errors import RunError

def fail():
    distributed.join("cpu")
    if distributed.rank() == 1:
        atexit.register(print, "the interpreter ends")  # where threads of a process group are waited for
        raise RunError("rank 1 is lost", where="run")
    distributed.exchange(None)

with patch("seodang.cli.entry.app", fail):
    main()
"""


def test_checkpoints_of_sharded_ranks_are_sealed(sharded: Reports) -> None:
    """Every rank's files are in the seal; one that is cut short leaves the checkpoint before it to be resumed from."""
    run = Run(folder=Path(sharded[0]["run"]).parent / "llama")
    *_, before, newest = run.all_checkpoints()
    sealed = set(json.loads((newest / CHECKPOINT_FILES).read_text(encoding="utf-8"))["files"])
    assert sealed == {*files_below(newest)} - {CHECKPOINT_FILES}
    states = [name for name in sealed if "optimizer" in name or "model" in name]
    assert len(states) >= 2, sealed
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= sealed
    assert newest_intact(run).folder == newest
    for name in (*states, "rng_state_1.pth"):
        whole = (newest / name).read_bytes()
        (newest / name).write_bytes(whole[:-1])
        assert newest_intact(run).folder == before
        (newest / name).write_bytes(whole)


def test_a_rank_that_fails_alone_ends_at_once(tmp_path: Path) -> None:
    """It reports its error and ends with its exit code there and then, not waiting for one that is still at work."""
    waiting, failing = launch("-c", LONE, cwd=tmp_path, forked=False)
    assert (failing.code, waiting.code) == (2, 2), failing.err[-500:] + waiting.err[-500:]
    assert "rank 1 is lost" in failing.err
    assert failing.out == ""
    assert "another process of this run has ended" in waiting.err
    assert "Traceback" not in failing.err + waiting.err


def test_ranks_that_end_with_an_error_do_not_abort(tiny_folder: Path, tmp_path: Path) -> None:
    """After the one message both processes end with its exit code: neither is aborted (-6) by a group that it left."""
    _write_recipe(tmp_path, tiny_folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    arguments = ("-m", "seodang", "tune", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    ended = launch(*arguments, cwd=tmp_path, forked=False)
    assert [end.code for end in ended] == [2, 2], "\n".join(end.err[-500:] for end in ended)
    assert ended[0].err.count("already exists, and runs are never overwritten") == 1
    assert ended[1].err == ""


def test_the_command_line_on_two_ranks(tiny_folder: Path, tmp_path: Path) -> None:
    """One rank prints and writes; a folder that is there gives one error, exit code 2 on both, and nothing hangs."""
    _write_recipe(tmp_path, tiny_folder)
    reported, ended = _together("command", tmp_path)
    assert [rank["codes"] for rank in reported] == [[0, 2], [0, 2]]
    assert "verdict" in ended[0].out
    assert ended[0].err.count("already exists, and runs are never overwritten") == 1
    assert (ended[1].out, ended[1].err) == ("", "")
    own = {Path(path).name for path in reported[1]["written"] if "hidden_states" not in Path(path).parts}
    assert own <= {"rng_state_1.pth"} | {path for path in own if path.startswith("saving-")}
    run = Run(folder=tmp_path / "run")
    assert run.read_json("manifest.json")["hardware"]["processes"] == 2
    assert [row["step"] for row in run.read_lines("metrics.jsonl") if row["event"] == "train"] == [1, 2, 3, 4]
    kinds = [row["kind"] for row in run.read_lines("answers.jsonl")]
    assert {kind: kinds.count(kind) for kind in kinds} == {"domain": 2, "repeat": 6, "holdout": 4}


def test_a_gate_over_seeds_on_two_ranks(tiny_folder: Path, tmp_path: Path) -> None:
    """Every run is whole, the comparison is printed once; a gate that does not hold names both runs, ending with 1."""
    _write_recipe(tmp_path, tiny_folder)
    reported, ended = _together("gated", tmp_path)
    assert [rank["codes"] for rank in reported] == [[1, 1], [1, 1]]
    found, _ = json.JSONDecoder().raw_decode(ended[0].out)
    assert [Path(run).name for run in found["runs"]] == ["run-s1", "run-s2"]
    assert all(Run(folder=Path(run)).is_proven for run in found["runs"])
    failure = "that the domain improved is not shown"
    assert [ended[0].err.count(f"{name}{failure}") for name in ("run-s1: ", "run-s2: ", "")] == [1, 1, 3]
    assert ended[1].out == ""
    assert "error" not in ended[1].err


@pytest.mark.slow
def test_torchrun_starts_the_line(tiny_folder: Path, tmp_path: Path) -> None:
    """`torchrun -m seodang tune` on two processes leaves a whole run."""
    _write_recipe(tmp_path, tiny_folder)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*torchrun, "-m", "seodang", "tune", "recipe.yaml"], cwd=tmp_path, check=True, timeout=120, capture_output=True
    )
    assert Run(folder=tmp_path / "runs" / "tiny").is_proven


def test_one_process_is_a_world_of_its_own() -> None:
    """Without others nothing is waited for: shares are everything, and errors are raised where they are."""
    assert (distributed.rank(), distributed.world(), distributed.is_main()) == (0, 1, True)
    assert distributed.exchange("value") == ["value"]
    assert distributed.spread(3, lambda indices: [index * 2 for index in indices]) == [0, 2, 4]
    with pytest.raises(RunError, match="gone"), distributed.main_first():
        raise RunError("gone")


@pytest.mark.parametrize(
    ("device", "env", "what"),
    [
        ("auto", {"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ("auto", {"ACCELERATE_USE_FSDP": "true"}, "FSDP 1"),
        ("auto", SHARDED | {"FSDP_OFFLOAD_PARAMS": "true"}, "main memory"),
        ("cuda:1", {}, "one device"),
        ("mps", {}, "one device"),
    ],
)
def test_launches_that_cannot_work_are_refused(
    device: str, env: dict[str, str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What accelerate was configured for and training is not made for is said before anything is loaded."""
    for key, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", **env}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ResourceError, match=what):
        distributed.join(device)


def test_an_error_is_the_same_on_another_rank() -> None:
    """Errors travel from process to process with their fields, their text and their exit code."""
    error = RecipeError(["a", "b"], where="recipe.yaml", hint="mend them")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.faults, again.exit_code) == (RecipeError, str(error), ("a", "b"), 2)
