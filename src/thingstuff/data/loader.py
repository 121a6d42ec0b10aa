"""Which picture when, and batches for training.

The order of the pictures and the seed of each are functions of the run's seed, the epoch and the picture alone. So a
resumed run sees what the uninterrupted run would have seen, and several processes together see what one would.
"""

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from thingstuff.data.packing import PackedBatch, pack
from thingstuff.data.transforms import Augmentation, augment, collate, paste
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.structures import Batch, Sample, Size


@runtime_checkable
class PictureSource(Protocol):
    """Annotated pictures of a data set, in an order of their own."""

    @property
    def labels(self) -> LabelSet:
        """The classes of the annotation."""
        ...

    def __len__(self) -> int: ...

    def picture_sizes(self) -> list[Size]:
        """Original size of every picture, without decoding any."""
        ...

    def read(self, index: int) -> Sample:
        """Decode one picture and its annotation.

        Raises:
            InputError: Picture or annotation are damaged or contradict each other.
        """
        ...


class CachedSource:
    """Keeps decoded pictures in memory, for small data sets that are read many times.

    What does not fit is read anew each time. Worker processes of a loader keep one cache each. The arrays of cached
    samples are handed out again and again, so nobody may write into them.

    Args:
        source: Where pictures come from.
        max_bytes: Limit of the pixels and maps kept, in each process.
    """

    def __init__(self, source: PictureSource, max_bytes: int) -> None:
        self.source = source
        self.max_bytes = max_bytes
        self._samples: dict[int, Sample] = {}
        self._num_bytes = 0

    @property
    def labels(self) -> LabelSet:
        """The classes of the annotation."""
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def picture_sizes(self) -> list[Size]:
        """Original size of every picture, without decoding any."""
        return self.source.picture_sizes()

    def read(self, index: int) -> Sample:
        """Take one picture and its annotation from memory, or decode them."""
        if index in self._samples:
            return self._samples[index]
        sample = self.source.read(index)
        # Nothing is evicted: in shuffled epochs the oldest picture is as likely to come next as any.
        if self._num_bytes + _num_bytes(sample) <= self.max_bytes:
            self._num_bytes += _num_bytes(sample)
            self._samples[index] = sample
        return sample


def _num_bytes(sample: Sample) -> int:
    truth = sample.truth
    maps = 0 if truth is None else truth.ids.nbytes
    masks = 0 if truth is None or truth.instances is None else truth.instances.masks.nbytes
    return sample.image.nbytes + maps + masks


# --- which picture when ---


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One visit to a picture.

    Attributes:
        epoch: Counted from 0.
        index: Position of the picture in its source.
        occurrence: How often the picture came before in the same epoch.
    """

    epoch: int
    index: int
    occurrence: int = 0


def sample_seed(seed: int, planned: PlannedSample) -> int:
    """The seed of everything random that happens to a visited picture, below 2**63.

    Args:
        seed: The run's seed, at least 0.
        planned: The visit.
    """
    sequence = np.random.SeedSequence([seed, planned.epoch, planned.index, planned.occurrence])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def repeat_factors(picture_labels: Iterable[Collection[int]], threshold: float) -> list[float]:
    """How often each picture is to be shown in an epoch so that rare classes are seen more often.

    A class in a fraction f of the pictures asks for ``max(1, sqrt(threshold / f))``; a picture follows the class in it
    that asks for most.

    Source: Gupta, Dollar, Girshick: LVIS (arXiv 1908.03195), repeat factor sampling.

    Args:
        picture_labels: The distinct classes in each picture.
        threshold: Classes in a smaller fraction of the pictures are repeated.
    """
    pictures = [frozenset(labels) for labels in picture_labels]
    counts = Counter(itertools.chain.from_iterable(pictures))
    factor = {label: max(1.0, math.sqrt(threshold * len(pictures) / count)) for label, count in counts.items()}
    return [max((factor[label] for label in labels), default=1.0) for labels in pictures]


def batch_plan(
    sizes: Sequence[Size],
    batch_size: int,
    seed: int,
    *,
    aspect_grouping: bool,
    repeats: Sequence[float] | None = None,
) -> Iterator[list[PlannedSample]]:
    """Plan batches without end: every epoch shows all pictures in a new order.

    Source: Detectron2's ``AspectRatioGroupedDataset`` for the grouping.

    Args:
        sizes: Of every picture.
        batch_size: Pictures of a batch, over all processes.
        seed: The run's seed.
        aspect_grouping: Landscape pictures (width > height) and others never share a batch, which saves padding. They
            are collected in the order of the stream, across the ends of epochs.
        repeats: How often each picture is shown in an epoch; the fractional part by chance. None: once.

    Raises:
        InputError: There is no picture.
    """
    if not sizes:
        raise InputError("the data set has no pictures; nothing can be learned from it")
    return _plan(sizes, batch_size, seed, aspect_grouping, repeats)


def _plan(
    sizes: Sequence[Size], batch_size: int, seed: int, aspect_grouping: bool, repeats: Sequence[float] | None
) -> Iterator[list[PlannedSample]]:
    buckets: dict[bool, list[PlannedSample]] = {False: [], True: []}
    for epoch in itertools.count():
        for planned in _epoch_order(len(sizes), epoch, seed, repeats):
            height, width = sizes[planned.index]
            landscape = aspect_grouping and width > height
            buckets[landscape].append(planned)
            if len(buckets[landscape]) == batch_size:
                yield buckets[landscape]
                buckets[landscape] = []


def _epoch_order(count: int, epoch: int, seed: int, repeats: Sequence[float] | None) -> Iterator[PlannedSample]:
    generator = np.random.default_rng([seed, epoch])
    indices = np.arange(count)
    if repeats is not None:
        whole = np.floor(repeats).astype(np.int64)
        indices = indices.repeat(whole + (generator.random(count) < np.asarray(repeats) - whole))
    seen: Counter[int] = Counter()
    for index in generator.permutation(indices).tolist():
        yield PlannedSample(epoch, index, seen[index])
        seen[index] += 1


# --- batches ---


@dataclass(frozen=True, slots=True)
class Pasting:
    """Objects of other pictures that are laid over those of a batch (see ``transforms.paste``).

    Attributes:
        probability: That it happens to a picture.
        pictures_by_thing: Which pictures have objects of a thing index.
        steps: In the first so many of a run.
    """

    probability: float
    pictures_by_thing: Mapping[int, Sequence[int]]
    steps: int


def training_loader(
    source: PictureSource,
    augmentation: Augmentation,
    labels: LabelSet,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    num_steps: int,
    size_divisor: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    aspect_grouping: bool,
    repeats: Sequence[float] | None = None,
    pasting: Pasting | None = None,
) -> Iterator[Batch]:
    """Read, augment and batch pictures for the steps ``start_step`` to ``num_steps - 1`` of a run.

    Args:
        source: The pictures.
        augmentation: What happens to them.
        labels: Classes of the annotation.
        batch_size: Pictures of a step, over all processes.
        seed: The run's seed.
        start_step: First step; what comes before is not read.
        num_steps: Steps of the whole run.
        size_divisor: Padded sizes are multiples of it.
        num_workers: Processes that read ahead; 0 reads in this one. The batches do not depend on it.
        rank: Which part of every batch is for this process.
        world_size: Number of processes.
        aspect_grouping: See ``batch_plan``.
        repeats: See ``batch_plan``.
        pasting: Which objects are laid over pictures, and when; None: none are.

    Raises:
        InputError: The batch cannot be divided among the processes, or there is no picture. While iterating: a picture
            or its annotation is damaged.
    """
    if batch_size % world_size:
        raise InputError(
            f"batch_size is {batch_size}, which {world_size} processes cannot share evenly; "
            f"take a multiple of {world_size}"
        )
    share = batch_size // world_size
    plan = batch_plan(source.picture_sizes(), batch_size, seed, aspect_grouping=aspect_grouping, repeats=repeats)
    steps = itertools.islice(enumerate(plan), start_step, max(start_step, num_steps))
    pasting_steps = 0 if pasting is None else pasting.steps
    loader = DataLoader(
        _AugmentedPictures(source, augmentation, labels, seed, pasting),
        batch_sampler=(  # pyright: ignore[reportArgumentType]
            [(planned, step < pasting_steps) for planned in batch[rank * share : (rank + 1) * share]]
            for step, batch in steps
        ),
        num_workers=num_workers,
        collate_fn=partial(_collate_packed, labels=labels, size_divisor=size_divisor),
        pin_memory=torch.cuda.is_available(),
    )
    return _unpacked(loader)


def _unpacked(loader: Iterable[PackedBatch | InputError]) -> Iterator[Batch]:
    for packed in loader:
        if isinstance(packed, InputError):
            raise packed
        yield packed.unpack()


@dataclass(frozen=True)
class _AugmentedPictures(Dataset[Sample | InputError]):
    """What a worker process does. Errors come back as values: raised there, they would arrive as tracebacks."""

    source: PictureSource
    augmentation: Augmentation
    labels: LabelSet
    seed: int
    pasting: Pasting | None

    def __getitem__(self, visit: tuple[PlannedSample, bool]) -> Sample | InputError:
        """Read a picture; the second of ``visit`` says whether objects may be pasted."""
        planned, may_paste = visit
        try:
            sample = self._augmented(planned.index, sample_seed(self.seed, planned))
            return self._with_objects(sample, self.pasting) if may_paste and self.pasting is not None else sample
        except InputError as error:
            return error

    def _augmented(self, index: int, seed: int) -> Sample:
        return augment(replace(self.source.read(index), seed=seed), self.augmentation)

    def _with_objects(self, sample: Sample, pasting: Pasting) -> Sample:
        """Now and then, with objects of a class from one of its pictures; the fewer it has, the oftener it is drawn."""
        generator = np.random.default_rng([sample.seed, 1])
        if not pasting.pictures_by_thing or generator.random() >= pasting.probability:
            return sample
        rarity = np.array([1 / len(pictures) for pictures in pasting.pictures_by_thing.values()])
        thing = int(generator.choice(list(pasting.pictures_by_thing), p=rarity / rarity.sum()))
        pictures = pasting.pictures_by_thing[thing]
        index, seed = pictures[int(generator.integers(len(pictures)))], int(generator.integers(2**63))
        return paste(sample, self._augmented(index, seed), self.labels, thing)


def _collate_packed(
    samples: Sequence[Sample | InputError], labels: LabelSet, size_divisor: int
) -> PackedBatch | InputError:
    read = []
    for sample in samples:
        if isinstance(sample, InputError):
            return sample
        read.append(sample)
    try:
        return pack(collate(read, labels, size_divisor))
    except InputError as error:
        return error
