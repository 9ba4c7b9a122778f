"""Prepared rows → optimizer steps, as a loader hands them out: a step of packs is one item."""

import numpy as np
import torch
from datasets import Dataset

from seodang import distributed
from seodang.data.pack import Plan, pack_step
from seodang.types import Step


class Steps(torch.utils.data.Dataset[Step]):
    """The optimizer steps of the current epoch. Item i is step i // ranks of rank i % ranks: so accelerate deals."""

    def __init__(self, rows: Dataset, plan: Plan, budget: int) -> None:
        self.rows, self.plan, self.budget, self.epoch = rows.select_columns(["input_ids", "labels"]), plan, budget, 0
        self.ranks = distributed.world()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.plan.steps_per_epoch * self.ranks

    def __getitem__(self, item: int) -> Step:
        step, rank = divmod(item, self.ranks)
        indices = self.plan.rows(self.epoch, step)
        part = self.rows[indices]
        ids, labels = ([np.asarray(row, dtype=np.int32) for row in part[key]] for key in ("input_ids", "labels"))
        return pack_step(indices.tolist(), ids, labels, budget=self.budget, share=(rank, self.ranks))


def only_item(items: list[Step]) -> Step:
    """A batch is one step."""
    (step,) = items
    return step
