"""Training batches: every target once per epoch, grouped by length under a budget of positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch.utils.data import DataLoader, Dataset

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.rows import gather, ragged_positions
from nestrec_recbole.processes import Processes


class WholeSplit:
    """A split that is ranked as a whole, in place of a loader of RecBole's.

    Parameters
    ----------
    dataset : SequenceDataset
    """

    def __init__(self, dataset: SequenceDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)


class WindowLoader:
    """Cut each user's training stretch into windows of at most ``L`` items and batch them by length.

    RecBole trains one row per target. Here a window ``items[start:stop]`` trains all its targets in one forward. A
    stretch longer than ``L`` becomes several windows; a window after the first begins ``ceil(L / 2)`` items before its
    first target, so every target is trained once per epoch with at least that much context, where it exists. Where the
    cuts fall is drawn anew each epoch from (seed, epoch), so an epoch can be replayed.

    Parameters
    ----------
    config : recbole.config.Config
        ``train_batch_size`` is a budget of positions: rows of a batch times its longest window.
    dataset : SequenceDataset
        The training split.

    Notes
    -----
    A batch is an ``Interaction`` with ``item_id_list`` (B, T) int64, ``item_length`` (B,), ``user_id`` (B,),
    ``target_list`` (B, T), zero where there is nothing to predict, and the other ``*_list`` columns. Under ``torchrun``
    every process gets its part of each batch.
    """

    def __init__(self, config: Any, dataset: SequenceDataset, sampler: Any = None, shuffle: bool = True) -> None:
        self.config, self._dataset, self.sampler, self.shuffle = config, dataset, sampler, shuffle
        self.max_length = int(config["MAX_ITEM_LIST_LENGTH"])
        self.budget = int(config["train_batch_size"])
        self.epoch = 0
        self.first_batch = 0
        self.processes = Processes.current()
        stretches = find_stretches(dataset.users, dataset.starts, dataset.ends)
        self._stretches = last_targets(stretches) if config["targets"] == "last" else stretches
        self._planned: tuple[int, list[np.ndarray]] | None = None
        self._counted: np.ndarray | None = None

    @property
    def dataset(self) -> SequenceDataset:
        """The training split, under the name that RecBole's loaders give it."""
        return self._dataset

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch to iterate and the batch to begin with (to resume inside an epoch)."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return len(self._current_plan())

    def count_only(self, items: np.ndarray) -> None:
        """Let :meth:`n_targets` count only the targets that are some of the items: (n_items,) bool."""
        self._counted = np.r_[0, items[self._dataset.items].cumsum()]  # of the interactions before each

    def n_targets(self, place: int) -> tuple[int, int]:
        """Targets of a batch that its loss is the mean of: those given out here, and those of all processes."""
        windows = self._current_plan()[place]
        ends = windows[:, 2], windows[:, 3] + 1
        first, stop = ends if self._counted is None else (self._counted[end] for end in ends)
        sizes = stop - first
        return int(self.processes.part_of(sizes).sum()), int(sizes.sum())

    def _current_plan(self) -> list[np.ndarray]:
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = self.epoch, self.plan(self.epoch)
        return self._planned[1]

    def _own(self, windows: np.ndarray) -> np.ndarray:
        """The windows of this process; where there are too few for all, one that :meth:`n_targets` counts as none."""
        own = self.processes.part_of(windows)
        return own if len(own) else windows[:1]

    def __iter__(self) -> Iterator[Interaction]:
        batches = _Batches(self, [self._own(windows) for windows in self._current_plan()[self.first_batch :]])
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=int(self.config["worker"] or 0),
            pin_memory=torch.device(self.config["device"]).type == "cuda",
            generator=torch.Generator(),  # or each iteration would draw from the global one, and resuming would differ
        )
        return map(Interaction, loader)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch: each (B, 4) int64, user, start, first target, last target (places in ``items``)."""
        random = np.random.default_rng([int(self.config["seed"]), epoch])
        windows = cut_windows(self._stretches, self.max_length, random)
        if not self.shuffle:
            return batches_by_length(windows, self.budget)
        windows = windows[random.permutation(len(windows))]
        batches = batches_by_length(windows, self.budget)
        return [batches[i] for i in random.permutation(len(batches))]

    def collate(self, windows: np.ndarray) -> dict[str, torch.Tensor]:
        """Gather windows (B, 4) from the columns into padded tensors (B, T)."""
        data = self._dataset
        users, starts, first, last = windows.T
        width = int((last - starts).max())
        inputs = gather(data.items, starts, last, width).astype(np.int64)
        targets = gather(data.items, starts + 1, last + 1, width).astype(np.int64)
        targets[np.arange(width) < (first - 1 - starts)[:, None]] = 0  # context only: trained in the window before
        fields = {
            data.uid_field: torch.from_numpy(users),
            data.item_list_length_field: torch.from_numpy(last - starts),
            data.iid_field + self.config["LIST_SUFFIX"]: torch.from_numpy(inputs),
            "target_list": torch.from_numpy(targets),
        }
        for name, column in data.rows.columns.items():
            fields[name + self.config["LIST_SUFFIX"]] = torch.from_numpy(gather(column, starts, last, width))
        return fields | data.exact_times(starts, last, width)


class _Batches(Dataset):
    def __init__(self, loader: WindowLoader, plan: list[np.ndarray]) -> None:
        self.loader, self.batches = loader, plan

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.loader.collate(self.batches[index])


def find_stretches(users: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Merge rows whose targets follow each other into stretches.

    Returns
    -------
    numpy.ndarray of shape (n_stretches, 4), int64
        User, first item, first target, last target.
    """
    if not len(users):
        return np.zeros((0, 4), dtype=np.int64)
    follows = (users[1:] == users[:-1]) & (ends[1:] == ends[:-1] + 1) & (starts[1:] <= ends[:-1])
    first = np.flatnonzero(np.r_[True, ~follows])
    last = np.r_[first[1:] - 1, len(users) - 1]
    return np.stack([users[first], starts[first], ends[first], ends[last]], axis=1).astype(np.int64)


def last_targets(stretches: np.ndarray) -> np.ndarray:
    """Of every user's stretches (n, 4), by user, the last one with its last target only: (n_users, 4)."""
    is_last = np.diff(stretches[:, 0], append=-1) != 0
    kept = stretches[is_last]
    kept[:, 2] = kept[:, 3]
    return kept


def cut_windows(stretches: np.ndarray, max_length: int, random: np.random.Generator) -> np.ndarray:
    """Cut stretches into windows of at most ``max_length`` inputs; see :class:`WindowLoader`.

    Returns
    -------
    numpy.ndarray of shape (n_windows, 4), int64
        User, first input, first target, last target; the inputs end before the last target.
    """
    user, begin, first, last = stretches.T
    context = -(-max_length // 2)
    stride = max_length - context + 1  # targets of a window that spends `context` inputs on what came before
    have = first - begin
    room = max_length - np.minimum(have, context) + 1
    total = last - first + 1
    long = total > room
    head = np.where(long, room - random.integers(0, np.minimum(room, stride)), total)
    n_more = np.where(long, -(-(total - head) // stride), 0)
    which = np.repeat(np.arange(len(user)), n_more + 1)
    place = ragged_positions(np.zeros(len(user), dtype=np.int64), n_more + 1)
    window_first = np.where(place == 0, first[which], first[which] + head[which] + (place - 1) * stride)
    size = np.where(place == 0, head[which], stride)
    window_last = np.minimum(window_first + size - 1, last[which])
    # As much context as fits: the more the better, at least `context` where the history has it.
    window_begin = np.maximum(begin[which], window_last - max_length)
    return np.stack([user[which], window_begin, window_first, window_last], axis=1)


def batches_by_length(windows: np.ndarray, budget: int) -> list[np.ndarray]:
    """Sort windows by length (ties stay shuffled) and fill batches up to ``budget`` padded positions."""
    lengths = windows[:, 3] - windows[:, 1]
    order = np.argsort(-lengths, kind="stable")
    batches, at = [], 0
    while at < len(order):
        size = max(1, budget // int(lengths[order[at]]))
        batches.append(windows[order[at : at + size]])
        at += size
    return batches
