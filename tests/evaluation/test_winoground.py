import json
from pathlib import Path

import pytest
import torch

from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional_cases import Case
from intarsia.evaluation.compositional_winoground import read_winoground, winoground_outcomes
from intarsia.evaluation.metrics import summarise


def example(key: int = 0) -> dict[str, object]:
    return {
        "id": key,
        "image_0": f"ex_{key}_img_0",
        "image_1": f"ex_{key}_img_1",
        "caption_0": "an old person kisses a young person",
        "caption_1": "a young person kisses an old person",
        "tag": "Adjective-Age",
        "secondary_tag": "",
        "num_main_preds": 1,
        "collapsed_tag": "Object",
    }


def write(root: Path, *rows: object) -> Path:
    (root / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "examples.jsonl"


def test_an_example_becomes_two_cases(tmp_path):
    path = write(tmp_path, example(3))
    left, right = read_winoground(tmp_path, Path("images"), Problems())
    texts = ("an old person kisses a young person", "a young person kisses an old person")
    assert left == Case(f"{path}:1", Path("images/ex_3_img_0.png"), texts, "example")
    assert right == Case(f"{path}:1", Path("images/ex_3_img_1.png"), texts[::-1], "example")


def scores_of(*tables: list[list[float]]) -> tuple[list[Case], torch.Tensor]:
    """Tables [[s(c0,i0), s(c0,i1)], [s(c1,i0), s(c1,i1)]] as the cases would score."""
    cases, rows = [], []
    for index, ((c0i0, c0i1), (c1i0, c1i1)) in enumerate(tables):
        cases += [Case(str(index), Path("x"), ("", ""), "example")] * 2
        rows += [[c0i0, c1i0], [c1i1, c0i1]]
    return cases, torch.tensor(rows)


@pytest.mark.parametrize(
    ("table", "text", "image"),
    [
        ([[4.0, 1], [2, 3]], 100, 100),  # both pictures and both captions choose rightly
        ([[4.0, 5], [2, 6]], 100, 0),  # caption 0 prefers picture 1
        ([[4.0, 1], [5, 6]], 0, 100),  # picture 0 prefers caption 1
        ([[4.0, 4], [2, 6]], 100, 0),  # caption 0 sees no difference: a tie is wrong
        ([[4.0, 1], [4, 6]], 0, 100),  # picture 0 sees no difference
        ([[1.0, 2], [2, 1]], 0, 0),
    ],
)
def test_text_image_and_group(table, text, image):
    metrics = summarise(winoground_outcomes(*scores_of(table)))
    assert [metrics[name].value for name in ("text", "image", "group")] == [
        text,
        image,
        min(text, image),
    ]


def test_random_scores_land_at_chance():
    generator = torch.Generator().manual_seed(0)
    tables = torch.rand(2000, 2, 2, generator=generator).tolist()
    metrics = summarise(winoground_outcomes(*scores_of(*tables)))
    for name, chance in {"text": 25, "image": 25, "group": 100 / 6}.items():
        assert metrics[name].ci95[0] < chance < metrics[name].ci95[1]


def test_an_example_that_lost_a_picture_is_left_out():
    cases, scores = scores_of([[4.0, 1], [2, 3]], [[1.0, 2], [2, 1]])
    metrics = summarise(winoground_outcomes(cases[:3], scores[:3]))
    assert (metrics["group"].value, metrics["group"].n) == (100, 1)
    with pytest.raises(DataError, match="none of 1 examples has both of its pictures"):
        winoground_outcomes(cases[:1], scores[:1])


def test_bad_input_is_named(tmp_path):
    path = write(tmp_path, example(1), example(1))
    problems = Problems(max_fraction=1)
    assert len(read_winoground(tmp_path, tmp_path, problems)) == 2
    assert [str(p) for p in problems] == [f"{path}:2: id: 1 is used twice"]
    write(tmp_path, {"image": "a.jpg", "caption": "a dog", "id": 1})
    with pytest.raises(DataError, match=r"examples\.jsonl:1: image_0: is missing; the entry"):
        read_winoground(tmp_path, tmp_path, Problems())


@pytest.mark.parametrize(
    ("bad", "field"),
    [({"id": "2"}, "id"), ({"id": True}, "id"), ({"image_1": 3}, "image_1"), ({"id": 0}, "id")],
)
def test_an_ill_typed_example_is_one_bad_row(tmp_path, bad, field):
    path = write(tmp_path, example(0), example(1) | bad)
    problems = Problems(max_fraction=0.5)
    assert len(read_winoground(tmp_path, tmp_path, problems)) == 2
    assert [(p.source, p.field) for p in problems] == [(f"{path}:2", field)]
    assert "1 of 2 rows are bad (50%)" in problems.summary()
