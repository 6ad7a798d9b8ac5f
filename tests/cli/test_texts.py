"""Hard negatives and benchmarks with the text-only score beside them, as a user types them."""

import json

import pytest
from PIL import Image

from intarsia.cli import main
from intarsia.evaluation.result import KEYS

SCENES = "--data scenes --split test[:12]"
MODEL = "--model scenes-clip --device cpu"


def run(line, file):
    main(f"evaluate {line} {MODEL} --json {file}".split())
    return json.loads(file.read_text())


@pytest.fixture
def svo(tmp_path):
    """Two cases of SVO-Probes with their pictures, and captions of one's own."""
    for name in ("11", "12"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "svo_probes.csv").write_text(
        "sentence,pos_triplet,neg_triplet,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg\n"
        'A man rides a horse,"man,ride,horse","man,lead,horse",11,21,False,True,False\n'
        'A woman sits in a chair,"woman,sit,chair","man,sit,chair",12,22,True,False,False\n'
    )
    own = [("11.png", "a man rides a horse"), ("12.png", "a man rides a bike in a park")]
    lines = [json.dumps({"image": image, "caption": caption}) for image, caption in own]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_the_blind_score_stands_beside_the_models_and_is_kept(tmp_path, capsys):
    plain = run(f"negatives {SCENES}", tmp_path / "plain.json")
    assert tuple(plain) == KEYS
    result = run(f"negatives {SCENES} --blind scenes:train[:200]", tmp_path / "blind.json")
    assert result["metrics"] == plain["metrics"]
    blind = result["blind"]
    assert blind["metrics"].keys() == result["metrics"].keys()
    assert blind["n"] == result["n"] and blind["metrics"]["micro"]["n"] == result["n"]
    taught = blind["taught_on"]
    assert (taught["data"], taught["split"]) == ("scenes", "train[:200]")
    assert taught["captions"] > 400 and taught["left_out"] < 200
    shown = " ".join(capsys.readouterr().out.split())
    assert "text only" in shown and "captions of scenes train[:200]" in shown
    assert f"{blind['metrics']['macro']['value']:.1f} ±" in shown
    main(f"compare --a {tmp_path / 'plain.json'} --b {tmp_path / 'blind.json'}".split())
    assert "micro" in capsys.readouterr().out


def test_balanced_swaps_are_another_protocol(tmp_path, capsys):
    pytest.importorskip("spacy", reason="needs the extra 'text'")
    swaps = f"swaps {SCENES} --blind scenes:train[:200]"
    plain = run(swaps, tmp_path / "plain.json")
    result = run(f"{swaps} --balanced", tmp_path / "balanced.json")
    assert (plain["protocol"], result["protocol"]) == ("swaps", "swaps (balanced)")
    assert 0 < result["n"] < plain["n"]
    assert {metric["value"] for metric in result["blind"]["metrics"].values()} == {50}
    assert plain["blind"]["metrics"]["micro"]["value"] > 60
    with pytest.raises(SystemExit):
        main(f"compare --a {tmp_path / 'plain.json'} --b {tmp_path / 'balanced.json'}".split())
    assert "cannot be compared" in capsys.readouterr().err


def test_a_benchmark_of_files_and_captions_of_ones_own(svo, capsys):
    own = svo / "own.jsonl"
    line = f"svo --root {svo} --images {svo} --blind file --blind-root {own}"
    result = run(line, svo / "r.json")
    assert result["blind"]["n"] == result["n"] == 2
    taught = {"data": "file", "split": "train", "captions": 1, "left_out": 1}  # a man rides a horse
    assert result["blind"]["taught_on"] == taught
    assert "without 1 picture" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"swaps {SCENES} --balanced", "add --blind NAME[:SPLIT]"),
        (f"negatives {SCENES} --blind scenes:test[:12]", "all 12 pictures share a caption"),
        (f"negatives {SCENES} --blind scans", "unknown data set 'scans'"),
        (f"negatives {SCENES} --blind file", "'file' needs the path of its files"),
    ],
)
def test_mistakes_are_one_clear_line(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(f"evaluate {line} {MODEL}".split())
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_blind_score_is_of_the_cases_that_the_model_answers(svo):
    (svo / "12.png").unlink()
    own = svo / "own.jsonl"
    own.write_text(own.read_text().replace("12.png", "11.png").replace("rides a horse", "is tall"))
    line = f"svo --root {svo} --images {svo} --blind file --blind-root {own}"
    result = run(f"{line} --max-bad-fraction 0.5", svo / "r.json")
    assert result["blind"]["n"] == result["n"] == 1
    for name, metric in result["metrics"].items():
        assert result["blind"]["metrics"][name]["n"] == metric["n"]
