import math
from itertools import combinations
from random import Random

import pytest

from intarsia.components.regions import image_components, pair_regions
from intarsia.data.problems import Problems
from intarsia.errors import ConfigError
from intarsia.types import Region

SIZE = (100, 80)


def random_regions(num: int, seed: int = 0) -> list[Region]:
    random = Random(seed)
    regions = []
    for index in range(num):
        x0, x1 = sorted(random.uniform(0, 100) for _ in range(2))
        y0, y1 = sorted(random.uniform(0, 80) for _ in range(2))
        regions.append(Region((x0, y0, x1 + 1, y1 + 1), f"thing {index}", random.random()))
    return regions


def hull(a: Region, b: Region) -> tuple[float, ...]:
    low = [min(x, y) for x, y in zip(a.box[:2], b.box[:2], strict=True)]
    high = [max(x, y) for x, y in zip(a.box[2:], b.box[2:], strict=True)]
    return (*low, *high)


@pytest.mark.parametrize("num", [1, 7, 50, 2000])
def test_pairs_are_those_of_a_plain_double_loop(num: int) -> None:
    regions = random_regions(40)
    pairs = combinations(range(len(regions)), 2)
    ranked = sorted(pairs, key=lambda p: -regions[p[0]].score * regions[p[1]].score)
    unique: dict[tuple[float, ...], tuple[int, int]] = {}
    for one, two in ranked:
        unique.setdefault(hull(regions[one], regions[two]), (one, two))
    expected = list(unique.items())[:num]
    assert len(unique) < len(ranked) or num < 2000  # some boxes repeat: one box holds many others
    found = pair_regions(regions, num)
    assert [(pair.box, (pair.first, pair.second)) for pair in found] == expected
    assert all(
        math.isclose(p.score, regions[p.first].score * regions[p.second].score) for p in found
    )


@pytest.mark.parametrize("regions", [[], random_regions(1)])
def test_fewer_than_two_regions_make_no_pair(regions: list[Region]) -> None:
    assert pair_regions(regions, 10) == []


def test_pairs_of_equal_boxes_count_once_and_keep_the_best() -> None:
    frame, inner, other = (0, 0, 50, 50), (5, 5, 10, 10), (20, 20, 30, 30)
    regions = [Region(frame, score=0.5), Region(inner, score=0.4), Region(other, score=0.9)]
    assert [(p.box, p.first, p.second) for p in pair_regions(regions, 10)] == [
        ((0, 0, 50, 50), 0, 2),
        ((5, 5, 30, 30), 1, 2),
    ]


def test_the_best_are_kept_best_first_and_relations_point_at_them() -> None:
    regions = random_regions(500)
    found = image_components(regions, (101, 81), num_entities=6, num_relations=8)
    best = sorted(regions, key=lambda region: -region.score)[:6]
    assert [entity.label for entity in found.entities] == [region.label for region in best]
    assert len(found.relations) == 8
    scores = [relation.score for relation in found.relations]
    assert scores == sorted(scores, reverse=True)
    for pair in found.relations:
        assert pair.first < pair.second < 6
        assert pair.box == hull(found.entities[pair.first], found.entities[pair.second])


def test_boxes_are_cut_to_the_picture_and_bad_ones_counted_by_record() -> None:
    problems = Problems()
    nan, inf = float("nan"), float("inf")
    regions = [
        Region((-10, -5, 30, 200), "cut", 0.5),
        Region((0, 0, nan, 5), "no number"),
        Region((0, 0, inf, 5), "endless"),
        Region((0, 0, 5, 5), "unsure", nan),
        Region((120, 0, 140, 20), "outside"),
        Region((8, 8, 8, 20), "line"),
        Region((30, 30, 10, 40), "inverted"),
        Region((99.5, 0, 120, 80), "half a pixel"),
        Region((10, 10, 20, 20), "good", 0.9),
    ]
    found = image_components(regions, SIZE, problems=problems, source="photo 7")
    assert [(e.label, e.box) for e in found.entities] == [
        ("good", (10, 10, 20, 20)),
        ("cut", (0, 0, 30, 80)),
    ]
    assert [problem.field for problem in problems] == [f"regions[{i}]" for i in range(1, 8)]
    assert {problem.source for problem in problems} == {"photo 7"}
    assert "no pixel of the 100 x 80 picture" in [str(p) for p in problems][-1]


def test_the_same_crop_is_one_entity() -> None:
    regions = [Region((0, 0, 150, 80), "sofa", 0.4), Region((-3, 0, 100, 90), "couch", 0.6)]
    found = image_components(regions, SIZE)
    assert [entity.label for entity in found.entities] == ["couch"]
    assert found.relations == ()


def test_a_picture_without_detections_is_its_own_entity() -> None:
    found = image_components([], SIZE)
    assert found.entities == (Region((0, 0, 100, 80)),) and found.relations == ()
    assert image_components([], SIZE, whole_image=False).entities == ()


def test_negative_numbers_are_refused() -> None:
    assert image_components(random_regions(5), SIZE, num_relations=0).relations == ()
    with pytest.raises(ConfigError, match="num_relations is -1"):
        image_components([], SIZE, num_relations=-1)
