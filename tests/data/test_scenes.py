import subprocess
import sys
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thingstuff.data.scenes import MIN_AREA, SCENES, SceneSource, draw_scene
from thingstuff.errors import InputError
from thingstuff.structures import Sample, Truth

STUFF = ["sky", "grass", "water", "road", "building", "foliage"]
THINGS = ["car", "person", "ball", "box", "bird", "boat"]
COUNT = 250


@dataclass(frozen=True)
class Seen:
    """A segment as it shows in its id map."""

    name: str
    crowd: bool
    area: int
    top: int
    bottom: int
    left: int
    right: int
    neighbours: frozenset[int]

    @property
    def height(self) -> int:
        return self.bottom - self.top + 1

    @property
    def width(self) -> int:
        return self.right - self.left + 1


def look(truth: Truth) -> dict[int, Seen]:
    seen = {}
    touching = {segment.id: set() for segment in truth.segments} | {0: set()}
    ids = truth.ids
    for first, second in ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])):
        for a, b in np.unique(np.stack([first, second])[:, first != second], axis=1).T.tolist():
            touching[a].add(b)
            touching[b].add(a)
    for segment in truth.segments:
        rows, columns = np.nonzero(ids == segment.id)
        name = SCENES.categories[segment.label].name
        box = (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max()))
        seen[segment.id] = Seen(name, segment.crowd, len(rows), *box, frozenset(touching[segment.id]))
    return seen


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [draw_scene(11, index) for index in range(COUNT)]


@pytest.fixture(scope="module")
def scenes(samples: list[Sample]) -> list[dict[int, Seen]]:
    return [look(sample.truth) for sample in samples if sample.truth is not None]


@pytest.fixture(scope="module")
def things(scenes: list[dict[int, Seen]]) -> list[list[Seen]]:
    """Things of each picture without crowds."""
    return [[seen for seen in scene.values() if seen.name in THINGS and not seen.crowd] for scene in scenes]


def test_labels_are_six_stuff_and_six_thing_classes_in_class_order():
    assert [category.name for category in SCENES.categories] == STUFF + THINGS
    assert [category.isthing for category in SCENES.categories] == [False] * 6 + [True] * 6
    assert SCENES.category_ids.tolist() == list(range(1, 13))


def test_colours_of_the_labels_can_be_told_apart():
    colors = np.array([category.color for category in SCENES.categories], dtype=float)
    assert min(np.linalg.norm(a - b) for a, b in combinations(colors, 2)) > 40


def test_same_seed_and_index_give_the_same_picture_whatever_was_drawn_before(samples: list[Sample]):
    for index in (37, 5):
        again, before = draw_scene(11, index), samples[index]
        assert np.array_equal(again.image, before.image)
        assert again.truth is not None
        assert before.truth is not None
        assert np.array_equal(again.truth.ids, before.truth.ids)
        assert again.truth.segments == before.truth.segments


def test_another_seed_or_index_gives_another_picture():
    pictures = [draw_scene(seed, index).image for seed, index in ((0, 1), (1, 0), (0, 0), (1, 1))]
    for first, second in combinations(pictures, 2):
        assert np.mean(first != second) > 0.9


def test_sample_says_which_picture_it_is(samples: list[Sample]):
    sample = samples[42]
    assert (sample.image_id, sample.file_name, sample.original_size, sample.seed) == (42, "000042.png", (128, 192), 0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**64), index=st.integers(0, 10**7), size=st.tuples(st.integers(64, 200), st.integers(64, 260))
)
def test_ids_and_segments_agree_in_every_size(seed: int, index: int, size: tuple[int, int]):
    sample = draw_scene(seed, index, size)
    assert sample.image.shape == (*size, 3)
    assert sample.image.dtype == np.uint8
    truth = sample.truth
    assert truth is not None
    assert truth.ids.shape == size
    assert truth.ids.dtype == np.int32
    present, areas = np.unique(truth.ids[truth.ids != 0], return_counts=True)
    assert present.tolist() == sorted(segment.id for segment in truth.segments)
    assert areas.min() >= MIN_AREA == 24
    stuff = [segment.label for segment in truth.segments if segment.label < SCENES.num_stuff]
    assert len(stuff) == len(set(stuff))
    assert not any(segment.crowd for segment in truth.segments if segment.label in stuff)
    assert np.mean(truth.ids == 0) < 0.3


def test_large_pictures_are_the_same_kind_of_picture():
    sample = draw_scene(0, 3, (512, 768))
    assert sample.image.shape == (512, 768, 3)
    assert sample.truth is not None
    sizes = [max(seen.height, seen.width) for seen in look(sample.truth).values() if seen.name in THINGS]
    assert sizes
    assert np.median(sizes) > 40


@pytest.mark.parametrize("size", [(63, 192), (128, 10)])
def test_too_small_pictures_are_refused(size: tuple[int, int]):
    with pytest.raises(InputError, match=rf"size of scenes is {size[0]} x {size[1]}, expected at least 64"):
        draw_scene(0, 0, size)


def test_every_class_is_common(scenes: list[dict[int, Seen]]):
    for name in STUFF + THINGS:
        share = np.mean([any(seen.name == name for seen in scene.values()) for scene in scenes])
        assert share > 0.15, name


def test_crowds_are_rare_and_groups_of_people_or_birds(scenes: list[dict[int, Seen]]):
    crowds = [seen for scene in scenes for seen in scene.values() if seen.crowd]
    assert 0.015 * COUNT < len(crowds) < 0.12 * COUNT
    assert {seen.name for seen in crowds} == {"person", "bird"}


def test_void_regions_are_rare(samples: list[Sample]):
    areas = np.array([np.count_nonzero(sample.truth.ids == 0) for sample in samples if sample.truth is not None])
    assert 0.015 < np.mean(areas > 60) < 0.12
    assert areas.sum() < 0.01 * COUNT * 128 * 192


def test_most_pictures_have_two_to_eight_things_and_some_none(things: list[list[Seen]]):
    numbers = np.array([len(each) for each in things])
    assert np.mean((numbers >= 2) & (numbers <= 8)) > 0.8
    assert 0.005 < np.mean(numbers == 0) < 0.12


def test_most_things_are_ten_to_sixty_pixels_large(things: list[list[Seen]]):
    sizes = np.array([max(seen.height, seen.width) for each in things for seen in each])
    assert np.mean((sizes >= 10) & (sizes <= 60)) > 0.8


def test_whole_birds_and_balls_are_not_tiny(things: list[list[Seen]]):
    sizes = [max(seen.height, seen.width) for each in things for seen in each if seen.name in ("bird", "ball")]
    assert np.percentile(sizes, 5) >= 7


def test_nearer_people_are_taller(things: list[list[Seen]]):
    people = [seen for each in things for seen in each if seen.name == "person" and seen.bottom < 127]
    assert np.corrcoef([seen.bottom for seen in people], [seen.height for seen in people])[0, 1] > 0.5


def test_boats_touch_water_and_birds_fly_above_cars(scenes: list[dict[int, Seen]]):
    floating, highest = [], {"bird": [], "car": []}
    for scene in scenes:
        for seen in scene.values():
            names = [scene[neighbour].name for neighbour in seen.neighbours if neighbour]
            if seen.name == "boat":
                floating.append("water" in names)
            elif seen.name in highest:
                highest[seen.name].append(seen.bottom)
    assert np.mean(floating) > 0.9
    assert np.percentile(highest["bird"], 95) < np.percentile(highest["car"], 5)


def test_nearer_things_hide_farther_ones(scenes: list[dict[int, Seen]]):
    """A whole ball fills pi / 4 of the square around it; where much is missing, something nearer touches it."""
    whole, explained = 0, []
    for scene in scenes:
        for seen in scene.values():
            side = max(seen.height, seen.width)
            at_edge = seen.left == 0 or seen.right == 191 or seen.bottom == 127 or 0 in seen.neighbours
            if seen.name != "ball" or at_edge or side < 12:  # small circles are too coarse
                continue
            if seen.area > 0.85 * np.pi / 4 * side**2:
                whole += 1
                continue
            others = [scene[neighbour] for neighbour in seen.neighbours]
            nearer = [other.bottom >= seen.bottom for other in others if other.name in (*THINGS, "foliage")]
            explained.append(any(nearer))
    assert len(explained) > 0.05 * whole > 1
    assert np.mean(explained) > 0.9


def test_a_class_has_many_colours(samples: list[Sample]):
    """The mean colour of one car says little about that of the next."""
    colors = []
    for sample in samples:
        assert sample.truth is not None
        car = SCENES.index[7]
        colors += [sample.image[sample.truth.ids == s.id].mean(axis=0) for s in sample.truth.segments if s.label == car]
    assert np.all(np.std(colors, axis=0) > 20)


def test_source_reads_its_pictures():
    source = SceneSource(seed=4, count=3, size=(64, 96))
    assert source.labels is SCENES
    assert len(source) == 3
    assert source.picture_sizes() == [(64, 96)] * 3
    images = [source.read(index).image for index in range(3)]
    assert np.array_equal(images[2], draw_scene(4, 2, (64, 96)).image)
    assert all(not np.array_equal(first, second) for first, second in pairwise(images))


@pytest.mark.parametrize("index", [-1, 3])
def test_source_ends_with_an_index_error(index: int):
    with pytest.raises(IndexError, match=f"scene {index} of 3"):
        SceneSource(seed=4, count=3).read(index)


def test_scenes_need_numpy_alone():
    check = "import sys, thingstuff.data.scenes; print({'torch', 'PIL', 'scipy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
