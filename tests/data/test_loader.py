import itertools
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thingstuff.data.loader import (
    CachedSource,
    Pasting,
    PictureSource,
    PlannedSample,
    batch_plan,
    repeat_factors,
    sample_seed,
    training_loader,
)
from thingstuff.data.transforms import Augmentation, ColorJitter, augment, collate
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.structures import Batch, Sample, Size, Truth, TruthSegment

LABELS = LabelSet((Category(1, "ground", False, (0, 0, 0)), Category(2, "ball", True, (1, 1, 1))))
AUGMENTATION = Augmentation(
    (24, 32), 60, flip=0.5, scale_jitter=(0.8, 1.2), crop=(30, 40), color=ColorJitter(0.2, 0.2, 0.2, 0.1)
)
# On Python 3.12 and later, Python warns of what torch's DataLoader does by default on Linux.
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@dataclass
class NoisySource:
    """Pictures of noise, each with its number of balls, a crowd among them; counts how often each is read."""

    sizes: list[Size]
    broken: int | None = None
    labels: LabelSet = LABELS
    reads: Counter[int] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.sizes)

    def picture_sizes(self) -> list[Size]:
        return self.sizes

    def read(self, index: int) -> Sample:
        self.reads[index] += 1
        if index == self.broken:
            raise InputError(f"{index}.png: the picture is damaged; copy it again")
        generator = np.random.default_rng(index)
        height, width = self.sizes[index]
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        ids = np.ones((height, width), dtype=np.int32)
        ids[0] = 0
        for ball in range(index % 4):
            ids[4 + 5 * ball : 8 + 5 * ball, ball : ball + 6] = 2 + ball
        segments = (TruthSegment(1, 0), *(TruthSegment(2 + ball, 1, crowd=ball == 2) for ball in range(index % 4)))
        return Sample(image, Truth(ids, segments), index, f"{index}.png", (height, width))


@dataclass
class OneThingSource:
    """Equal pictures of 8x8 with one square in the middle, of the class index listed."""

    things: list[int]
    labels: LabelSet

    def __len__(self) -> int:
        return len(self.things)

    def picture_sizes(self) -> list[Size]:
        return [(8, 8)] * len(self.things)

    def read(self, index: int) -> Sample:
        ids = np.ones((8, 8), dtype=np.int32)
        ids[2:6, 2:6] = 2
        segments = (TruthSegment(1, 0), TruthSegment(2, self.things[index]))
        return Sample(np.zeros((8, 8, 3), dtype=np.uint8), Truth(ids, segments), index, f"{index}.png", (8, 8))


SIZES: list[Size] = [(30, 40), (40, 30), (30, 30), (36, 50), (50, 36), (32, 44), (28, 28)]


def load(
    source: PictureSource, augmentation: Augmentation = AUGMENTATION, labels: LabelSet = LABELS, **changes: Any
) -> Iterator[Batch]:
    settings: dict[str, Any] = {
        "batch_size": 4,
        "seed": 3,
        "start_step": 0,
        "num_steps": 6,
        "size_divisor": 8,
        "num_workers": 0,
        "aspect_grouping": True,
    }
    return training_loader(source, augmentation, labels, **(settings | changes))


def assert_same(first: Batch, second: Batch) -> None:
    assert first.seeds == second.seeds
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.sizes, second.sizes)
    assert first.targets is not None
    assert second.targets is not None
    for one, other in zip(first.targets, second.targets, strict=True):
        for name in ("boxes", "labels", "crowd", "label_map"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert len(one.masks) == len(other.masks)
        assert all(torch.equal(*masks) for masks in zip(one.masks, other.masks, strict=True))


# --- seeds ---


def test_seeds_differ_in_everything_they_depend_on():
    visits = [PlannedSample(*visit) for visit in itertools.product(range(4), repeat=3)]
    seeds = {sample_seed(seed, visit) for seed in range(4) for visit in visits}
    assert len(seeds) == 4**4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_for_ever():
    # A change of these numbers would change every run.
    assert sample_seed(0, PlannedSample(0, 0)) == 7896617691693857887
    assert sample_seed(1, PlannedSample(2, 3, 4)) == 7661749924751933381


# --- plan ---


def take(plan: Iterator[list[PlannedSample]], count: int) -> list[list[PlannedSample]]:
    return list(itertools.islice(plan, count))


def test_every_epoch_shows_every_picture_once_in_a_new_order():
    plan = take(batch_plan([(2, 2)] * 6, 3, seed=0, aspect_grouping=False), 8)
    visits = list(itertools.chain(*plan))
    epochs = [[visit.index for visit in visits if visit.epoch == epoch] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert all(visit.occurrence == 0 for visit in visits)


def test_batches_reach_across_the_ends_of_epochs():
    plan = take(batch_plan([(2, 2)] * 3, 2, seed=0, aspect_grouping=False), 3)
    assert [[visit.epoch for visit in batch] for batch in plan] == [[0, 0], [0, 1], [1, 1]]


def test_a_batch_may_be_larger_than_the_data_set():
    (batch,) = take(batch_plan([(2, 2)], 3, seed=0, aspect_grouping=False), 1)
    assert batch == [PlannedSample(0, 0), PlannedSample(1, 0), PlannedSample(2, 0)]


def test_the_plan_follows_from_the_seed():
    plans = [take(batch_plan(SIZES, 2, seed=seed, aspect_grouping=True), 10) for seed in (5, 5, 6)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_aspect_grouping_collects_in_the_order_of_the_stream():
    stream = [visit for batch in take(batch_plan(SIZES, 1, seed=2, aspect_grouping=False), 70) for visit in batch]
    grouped = take(batch_plan(SIZES, 2, seed=2, aspect_grouping=True), 30)
    for landscape in (False, True):

        def belongs(visit: PlannedSample, landscape: bool = landscape) -> bool:
            height, width = SIZES[visit.index]
            return (width > height) == landscape

        expected = [visit for visit in stream if belongs(visit)]
        collected = [visit for batch in grouped if belongs(batch[0]) for visit in batch]
        assert collected == expected[: len(collected)]
        assert collected
    # A batch is ready as soon as its last picture comes.
    assert [stream.index(batch[-1]) for batch in grouped] == sorted(stream.index(batch[-1]) for batch in grouped)


def test_repeats():
    repeats = [1.0, 2.0, 1.25]
    visits = list(itertools.chain(*take(batch_plan([(1, 1)] * 3, 1, 0, aspect_grouping=False, repeats=repeats), 1700)))
    last = visits[-1].epoch
    counts = Counter((visit.epoch, visit.index) for visit in visits if visit.epoch < last)
    assert {counts[epoch, 0] for epoch in range(last)} == {1}
    assert {counts[epoch, 1] for epoch in range(last)} == {2}
    assert {counts[epoch, 2] for epoch in range(last)} == {1, 2}
    assert np.mean([counts[epoch, 2] for epoch in range(last)]) == pytest.approx(1.25, abs=0.08)  # deviation 0.02
    assert len(set(visits)) == len(visits)  # a repeat in the same epoch is another visit


def test_no_pictures():
    with pytest.raises(InputError, match="the data set has no pictures; nothing can be learned from it"):
        batch_plan([], 2, 0, aspect_grouping=False)


def test_repeat_factors():
    # Class 0 is in all four pictures, class 1 in two, class 2 in one. Asked for: sqrt(1 / 0.5) and sqrt(1 / 0.25).
    factors = repeat_factors([{0}, {0, 1}, {0, 1, 2}, {0}], threshold=1.0)
    assert factors == pytest.approx([1, 2**0.5, 2, 1])
    assert repeat_factors([{0}, {0, 1}, {0, 1, 2}, {0}], threshold=0.3) == pytest.approx([1, 1, 1.2**0.5, 1])
    assert repeat_factors([frozenset(), (0, 0)], threshold=0.1) == [1, 1]


# --- loader ---


def test_batches_are_the_planned_samples_augmented():
    source = NoisySource(SIZES)
    plan = take(batch_plan(SIZES, 4, 3, aspect_grouping=True), 6)
    batches = list(load(source))
    assert len(batches) == 6
    for planned, batch in zip(plan, batches, strict=True):
        samples = []
        for visit in planned:
            sample = source.read(visit.index)
            seeded = Sample(
                sample.image, sample.truth, visit.index, sample.file_name, sample.original_size, sample_seed(3, visit)
            )
            samples.append(augment(seeded, AUGMENTATION))
        assert_same(batch, collate(samples, LABELS, 8))
    crowds = [bool(target.crowd.any()) for batch in batches for target in batch.targets or ()]
    objects = [len(target.labels) for batch in batches for target in batch.targets or ()]
    assert any(crowds)
    assert min(objects) == 0
    assert max(objects) > 1


@forks
def test_worker_processes_change_nothing():
    for first, second in zip(load(NoisySource(SIZES)), load(NoisySource(SIZES), num_workers=2), strict=True):
        assert_same(first, second)


@forks
def test_objects_are_pasted_as_the_seed_says():
    source = NoisySource(SIZES)
    pasting = Pasting(0.5, {0: [index for index in range(len(SIZES)) if index % 4]}, steps=6)
    batches = [list(load(source, pasting=pasting, num_workers=workers)) for workers in (0, 0, 2)]
    for first, second, third in zip(*batches, strict=True):
        assert_same(first, second)
        assert_same(first, third)
    plain, pasted = (
        [target for batch in found for target in batch.targets or ()] for found in (list(load(source)), batches[0])
    )
    changed = [not torch.equal(one.label_map, other.label_map) for one, other in zip(plain, pasted, strict=True)]
    assert 3 <= sum(changed) <= 15  # of 24; some pasted balls hide others or are cut away
    more = [len(other.labels) - len(one.labels) for one, other in zip(plain, pasted, strict=True)]
    assert max(more) >= 1


def test_the_last_steps_see_pictures_as_they_are():
    source = NoisySource(SIZES)
    plain, all_steps, two_steps = (
        list(load(source, pasting=Pasting(1.0, {0: [1, 2, 3]}, steps))) for steps in (0, 6, 2)
    )
    for step, batch in enumerate(two_steps):
        assert_same(batch, all_steps[step] if step < 2 else plain[step])
    assert not torch.equal(plain[0].images, two_steps[0].images)


def test_rare_classes_are_pasted_more_often():
    labels = LabelSet((*LABELS.categories, Category(3, "boat", True, (2, 2, 2))))
    # One picture shows a boat, the six others a ball.
    source = OneThingSource([*[1] * 6, 2], labels)
    found = Counter()
    pasting = Pasting(1.0, {0: list(range(6)), 1: [6]}, steps=50)
    for batch in load(source, Augmentation((0,), 60), labels, pasting=pasting, num_steps=50):
        for target in batch.targets or ():
            found[target.labels[-1].item()] += 1
    # The class pasted last lies on top: a boat with probability 6 / 7, where chance alone would say 1 / 7.
    assert found[1] > 5 * found[0]


def test_a_resumed_run_sees_what_the_uninterrupted_one_sees():
    whole = list(load(NoisySource(SIZES)))
    source = NoisySource(SIZES)
    resumed = list(load(source, start_step=3))
    assert len(resumed) == 3
    for first, second in zip(whole[3:], resumed, strict=True):
        assert_same(first, second)
    assert source.reads.total() == 12  # what came before is not read


def test_a_finished_run_has_nothing_left():
    assert list(load(NoisySource(SIZES), start_step=6)) == []
    assert list(load(NoisySource(SIZES), start_step=9)) == []


def test_processes_together_see_what_one_sees():
    whole = list(load(NoisySource(SIZES)))
    ranks = [list(load(NoisySource(SIZES), rank=rank, world_size=2)) for rank in range(2)]
    for batch, left, right in zip(whole, *ranks, strict=True):
        assert left.seeds + right.seeds == batch.seeds
        assert torch.equal(torch.cat([left.sizes, right.sizes]), batch.sizes)
        height, width = left.images.shape[2:]
        assert torch.equal(left.images, batch.images[:2, :, :height, :width])
        assert left.targets is not None
        assert batch.targets is not None
        assert torch.equal(left.targets[1].boxes, batch.targets[1].boxes)


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(InputError, match="batch_size is 4, which 3 processes cannot share evenly; take a multiple"):
        load(NoisySource(SIZES), world_size=3)


@forks
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_picture_ends_in_one_line(num_workers):
    with pytest.raises(InputError) as caught:
        list(load(NoisySource(SIZES, broken=2), num_workers=num_workers))
    assert str(caught.value) == "2.png: the picture is damaged; copy it again"


@forks
def test_a_picture_with_thousands_of_objects_leaves_files_to_open():
    # One file descriptor for each mask would pass the usual limit of 1024, and the worker would send nothing.
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[1]), limits[1]))
    handler = signal.signal(signal.SIGALRM, stop_waiting)
    signal.alarm(60)
    try:
        loader = training_loader(
            CrowdedSource(),
            Augmentation((0,), 0),
            LABELS,
            batch_size=2,
            seed=0,
            start_step=0,
            num_steps=2,
            size_divisor=1,
            num_workers=1,
            aspect_grouping=False,
        )
        counts = [[len(target.masks) for target in batch.targets or ()] for batch in loader]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert counts == [[900, 900], [900, 900]]


def stop_waiting(*_: object) -> None:
    raise TimeoutError("the worker process sends nothing")


class CrowdedSource:
    """One picture with 900 objects of a pixel each."""

    labels = LABELS

    def __len__(self) -> int:
        return 1

    def picture_sizes(self) -> list[Size]:
        return [(30, 30)]

    def read(self, index: int) -> Sample:
        ids = np.arange(1, 901, dtype=np.int32).reshape(30, 30)
        segments = tuple(TruthSegment(identity, 1) for identity in range(1, 901))
        return Sample(np.zeros((30, 30, 3), dtype=np.uint8), Truth(ids, segments), index, "crowded.png", (30, 30))


# --- cache ---


def test_cache_reads_once():
    source = NoisySource(SIZES)
    cached = CachedSource(source, max_bytes=10**6)
    first = [cached.read(index) for index in range(len(cached))]
    assert all(cached.read(index) is first[index] for index in range(len(cached)))
    assert set(source.reads.values()) == {1}
    assert cached.picture_sizes() == SIZES
    assert cached.labels is LABELS


def test_cache_keeps_its_limit():
    source = NoisySource([(10, 10)] * 5)
    cached = CachedSource(source, max_bytes=1450)  # 300 bytes of picture and 400 of ids each: two fit
    for index in [0, 1, 2, 3, 4] * 2:
        assert cached.read(index).image_id == index
    assert [source.reads[index] for index in range(5)] == [1, 1, 2, 2, 2]


def test_cache_changes_no_batch():
    plain = list(load(NoisySource(SIZES), num_steps=12))
    cached = list(load(CachedSource(NoisySource(SIZES), max_bytes=10**6), num_steps=12))
    for first, second in zip(plain, cached, strict=True):
        assert_same(first, second)


# --- properties ---


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9),
    st.integers(1, 5),
    st.integers(0, 9),
    st.booleans(),
)
def test_plans_are_full_batches_of_one_shape_without_repetition(sizes, batch_size, seed, aspect_grouping):
    plan = take(batch_plan(sizes, batch_size, seed, aspect_grouping=aspect_grouping), 12)
    visits = list(itertools.chain(*plan))
    assert len(set(visits)) == len(visits)
    for batch in plan:
        assert len(batch) == batch_size
        shapes = {sizes[visit.index][1] > sizes[visit.index][0] for visit in batch}
        assert len(shapes) == 1 or not aspect_grouping
