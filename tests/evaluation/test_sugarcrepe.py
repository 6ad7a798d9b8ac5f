import json
from pathlib import Path

import pytest
import torch

from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional_cases import Case
from intarsia.evaluation.compositional_sugarcrepe import (
    KINDS,
    read_sugarcrepe,
    sugarcrepe_outcomes,
)
from intarsia.evaluation.metrics import summarise


def entry(name: str = "1.jpg") -> dict[str, str]:
    return {"filename": name, "caption": "A red cat.", "negative_caption": "A blue cat."}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for kind in KINDS:
        (tmp_path / f"{kind}.json").write_text(json.dumps({"0": entry(), "7": entry("2.jpg")}))
    return tmp_path


def test_seven_files_in_the_published_form(root):
    problems = Problems()
    cases = read_sugarcrepe(root, Path("val2017"), problems)
    assert [case.kind for case in cases] == [kind for kind in KINDS for _ in range(2)]
    texts = ("A red cat.", "A blue cat.")
    where = f"{root / 'add_att.json'}: case 7"
    assert cases[1] == Case(where, Path("val2017/2.jpg"), texts, "add_att")
    assert (problems.num_seen, len(problems)) == (14, 0)


def test_each_file_micro_and_macro_with_ties_wrong():
    """swap_obj: 1 of 1; add_att: 1 of 3, one of the others a tie."""
    kinds = ["swap_obj", "add_att", "add_att", "add_att"]
    cases = [Case("", Path("x"), ("t", "f"), kind) for kind in kinds]
    scores = torch.tensor([[0.2, 0.1], [0.2, 0.1], [0.1, 0.1], [0.1, 0.2]])
    metrics = summarise(sugarcrepe_outcomes(cases, scores))
    values = {name: round(metric.value, 1) for name, metric in metrics.items()}
    assert values == {"swap_obj": 100, "add_att": 33.3, "macro": 66.7, "micro": 50}


def test_a_missing_file_is_named(root):
    (root / "swap_att.json").unlink()
    with pytest.raises(DataError, match=r"seven files, of which swap_att\.json lack"):
        read_sugarcrepe(root, root, Problems())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be an object of cases, is list"),
        (
            '{"0": {"image_path": "x", "true_caption": "y"}}',
            "case 0: filename: is missing; the entry has image_path, true_caption",
        ),
        ('{"0": {}, "0": {}}', "case 0: id: is used twice"),
        ('{"0": ', "not JSON"),
        ('{"0": {"filename": "x", "caption": 3}}', "case 0: caption: must be text, is 3"),
    ],
)
def test_another_format_is_fatal_and_named(root, text, message):
    (root / "replace_rel.json").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_sugarcrepe(root, root, Problems())
    assert "replace_rel.json" in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ('"8": {"filename": 1, "caption": "a", "negative_caption": "b"}', "filename"),
        ('"8": [1]', "entry"),
        (f'"7": {json.dumps(entry())}', "id"),
        ('"8": {"filename": "x", "caption": "a", "caption": "b", "negative_caption": "c"}', "cap"),
    ],
)
def test_a_bad_entry_is_one_bad_record(root, bad, field):
    text = (root / "swap_obj.json").read_text()
    (root / "swap_obj.json").write_text(f"{text[:-1]}, {bad}}}")
    problems = Problems(max_fraction=1 / 15)
    assert len(read_sugarcrepe(root, root, problems)) == 14
    (problem,) = problems
    assert problem.source == f"{root / 'swap_obj.json'}: case {bad[1]}"
    assert problem.field.startswith(field)
    assert problems.summary().startswith("1 of 15 records are bad")
