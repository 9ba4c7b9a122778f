"""Several processes of one run, as torchrun and accelerate launch start them. One process is a world of its own.

All ranks run the same pipeline. One of them, the main rank, prepares first, prints and writes; what is measured is
shared out and put together again. A rank that fails passes its error to the others where they meet next, and all end
with the same one.
"""

import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from seodang.errors import ResourceError, RunError

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

T = TypeVar("T")

MAX_WAIT = timedelta(days=7)  # for a rank that prepares; one that died is noticed at once
NEW_FILE_SECONDS = 60  # until a file that one machine wrote is seen by all: network file systems remember absences


@dataclass(frozen=True, kw_only=True)
class _Joined:
    rank: int
    world: int
    group: "ProcessGroup"  # of the hosts: nothing here touches a GPU


_joined: _Joined | None = None
_shared_error: BaseException | None = None  # the last that all ranks raised


def rank() -> int:
    """The number of this process among those that joined."""
    return _joined.rank if _joined else 0


def world() -> int:
    """How many processes joined: 1 unless `join` found more."""
    return _joined.world if _joined else 1


def local_world() -> int:
    """How many of them share this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _joined else 1


def is_main() -> bool:
    """Whether this process prints and writes; known before `join` too."""
    return not _launched() or int(os.environ["RANK"]) == 0


def join(device: str) -> None:
    """Meet the other processes that were launched with this one, if there are any.

    Args:
        device: auto, cpu, cuda …: of the recipe.

    Raises:
        ResourceError: launched in a way that training is not made for.
    """
    global _joined
    if _joined or not _launched():
        return
    _refuse_launch(device)
    if wants_sharding():  # each rank measures the base before the weights are spread: it must not hold them empty
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        os.environ.setdefault("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    import torch
    from torch import distributed

    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu:
        _refuse_too_many(torch.cuda.device_count())
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    group = distributed.new_group(backend="gloo", timeout=MAX_WAIT)
    _joined = _Joined(rank=distributed.get_rank(), world=distributed.get_world_size(), group=group)


def leave() -> None:
    """Part from the others, when all is done."""
    global _joined
    if _joined:
        from torch import distributed

        _joined = None
        distributed.destroy_process_group()


def exchange(value: T, error: BaseException | None = None) -> list[T]:
    """What every rank brings, in the order of the ranks.

    Raises:
        the error that this rank brings, or else the first that another one brings.
        RunError: another rank is gone.
    """
    if not _joined:
        if error:
            raise error
        return [value]
    from torch import distributed

    global _shared_error
    gathered: list[Any] = [None] * _joined.world
    try:
        distributed.all_gather_object(gathered, (value, _picklable(error)), group=_joined.group)
    except RuntimeError:  # the connection to a rank is lost
        raise error or RunError("another process of this run has ended", hint="see its output") from None
    _shared_error = next((found for found in (error, *(other for _, other in gathered)) if found is not None), None)
    if _shared_error is not None:
        raise _shared_error
    return [brought for brought, _ in gathered]


def is_any(flag: bool) -> bool:
    """Whether the flag is set on any rank. It takes a fraction of a millisecond between processes of one machine."""
    if not _joined:
        return flag
    import torch
    from torch import distributed

    flags = torch.tensor(flag, dtype=torch.int32)
    distributed.all_reduce(flags, op=distributed.ReduceOp.MAX, group=_joined.group)
    return bool(flags)


@contextmanager
def agreed() -> Iterator[None]:
    """Inside, all ranks work; none continues before all are done, and an error of one is raised by all."""
    try:
        yield
    except BaseException as error:
        exchange(None, error)
        raise
    exchange(None)


@contextmanager
def main_first() -> Iterator[None]:
    """Inside, the main rank works before all others, and then one rank of each further machine before its others.

    What the first writes into a cache, the others read.
    """
    turn = 0 if is_main() else 1 if int(os.environ["LOCAL_RANK"]) == 0 else 2
    for now in range(3 if _joined else 1):
        if now == turn or not _joined:
            with agreed():
                yield
        else:
            exchange(None)


def spread(count: int, work: Callable[[Sequence[int]], Sequence[T]]) -> list[T]:
    """Results of `work` on the indices below `count`, each done by one of the ranks, in order on all ranks."""
    found: Sequence[T] = ()
    failure: BaseException | None = None
    try:
        found = work(range(rank(), count, world()))
    except BaseException as error:
        failure = error
    parts = exchange(found, failure)
    return [parts[index % world()][index // world()] for index in range(count)]


def wait_for(path: Path) -> None:
    """Wait until a file that the main rank wrote is seen from here.

    Raises:
        RunError: the machines do not share this folder.
    """
    until = time.monotonic() + NEW_FILE_SECONDS
    while not path.is_file():
        if time.monotonic() > until:
            raise RunError(
                "is not seen from all machines", where=str(path.parent), hint="give a shared folder by --out"
            )
        time.sleep(0.2)


@contextmanager
def ending(error: BaseException) -> Iterator[bool]:
    """Whether this rank reports an error that ends it: one that all share the main rank reports, and all end then."""
    global _shared_error
    is_shared = _joined is not None and error is _shared_error
    yield is_main() if is_shared or not _joined else True
    if is_shared:
        exchange(None)
        _shared_error = error  # which the exchange forgot


def part_for_exit(code: int, error: BaseException | None = None) -> None:
    """Leave before the process ends with an exit code: threads of a process group that was not left can abort it.

    Where other ranks may still be at work, leaving could wait for them: then the process ends here.

    Args:
        error: that ends it; if all ranks raised it, all of them leave.
    """
    if not _joined:
        return
    if code == 0 or error is _shared_error is not None:
        leave()
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def is_sharded(model: "torch.nn.Module") -> bool:
    """Whether FSDP2 spread the model's weights over the ranks."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def wants_sharding() -> bool:
    """Whether accelerate was configured to shard."""
    return _is_set("ACCELERATE_USE_FSDP")


def _is_set(flag: str) -> bool:
    return os.environ.get(flag, "false").lower() == "true"


def _launched() -> bool:
    """Whether torchrun or accelerate launch started this process beside others."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _refuse_launch(device: str) -> None:
    version = os.environ.get("FSDP_VERSION", "1")
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise ResourceError("DeepSpeed is not used", where="accelerate", hint="launch with FSDP2, or with plain DDP")
    if wants_sharding() and version != "2":
        raise ResourceError(f"FSDP {version} is not used", where="accelerate", hint="launch with fsdp_version: 2")
    if wants_sharding() and _is_set("FSDP_OFFLOAD_PARAMS"):
        what = "weights are not kept in main memory while a GPU trains them"
        raise ResourceError(what, where="accelerate", hint="launch with fsdp_offload_params: false")
    if ":" in device or device == "mps":
        what = f"{device} is one device, and several processes were launched"
        raise ResourceError(what, where="model.device", hint="use auto, cuda or cpu: each process takes its own")


def _refuse_too_many(gpus: int) -> None:
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if launched > gpus:
        what = f"{launched} processes were launched on a machine with {gpus} CUDA devices"
        raise ResourceError(what, where="model.device", hint=f"launch {gpus}: each process takes one")


def _picklable(error: BaseException | None) -> BaseException | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an exception holds
        return RuntimeError(f"{type(error).__name__} on rank {rank()}: {error}")
    return error
