"""Grounding, region retrieval, zero-shot classification and the probe as a user types them."""

import json

import pytest
from PIL import Image

from intarsia.cli import main
from intarsia.evaluation.probe import PENALTIES
from intarsia.evaluation.result import KEYS, read_result


def run(line, file):
    main(f"evaluate {line} --model scenes-clip --device cpu --json {file}".split())
    result = read_result(file)
    assert tuple(result) == KEYS
    for name, outcomes in result["per_query"].items():
        assert len(outcomes.values) == result["metrics"][name]["n"]
    return result


@pytest.fixture
def folder(tmp_path):
    for split, number in (("train", 4), ("val", 2)):
        for shade, name in ((20, "circle"), (120, "square"), (220, "star")):
            (tmp_path / "shades" / split / name).mkdir(parents=True)
            for i in range(number):
                image = Image.new("RGB", (40, 30), (shade, shade + i, 255 - shade))
                image.save(tmp_path / "shades" / split / name / f"{i}.png")
    return tmp_path / "shades"


@pytest.fixture
def proposals(tmp_path):
    """COCO results, known by the names of files, for pictures of `scenes` saved as COCO."""
    from intarsia.data.scenes import SceneSet

    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    images, boxes = [], []
    for i in range(3):
        record = SceneSet("test", 3)[i]
        Image.fromarray(record.image).save(root / "val2017" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 112, "height": 112})
        for region in record.regions:
            x0, y0, x1, y1 = region.box
            box = [x0, y0, x1 - x0, y1 - y0]
            boxes.append({"id": len(boxes), "image_id": i, "category_id": 1, "bbox": box})
    content = {"images": images, "categories": [{"id": 1, "name": "star"}], "annotations": boxes}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("options", "protocol"),
    [
        ("", "grounding (maps-any-box)"),
        ("--source proposals", "grounding (proposals-regions-any-box)"),
        ("--source both --targets merged", "grounding (both-regions-merged-box)"),
    ],
)
def test_grounding_on_scenes(options, protocol, tmp_path, capsys):
    result = run(f"grounding --data scenes --split test[:4] {options}", tmp_path / "r.json")
    assert result["protocol"] == protocol
    assert {"pointing", "pointing_chance", "r1", "r5", "r10"} <= set(result["metrics"])
    assert result["config"]["evaluation"]["num_proposals"] == 100
    assert "pointing_chance" in capsys.readouterr().out


def test_grounding_of_categories_with_a_detector(proposals, tmp_path):
    instances = proposals / "annotations" / "instances_val2017.json"
    result = run(
        f"grounding --data coco --root {proposals} --split val2017 --source proposals "
        f"--components.detector file:{instances} --components.options.threshold 0.5",
        tmp_path / "r.json",
    )
    assert result["protocol"] == "grounding (proposals-detector-any-box)" and result["n"] == 3
    assert result["metrics"]["bound"]["value"] == 100
    settings = result["config"]["evaluation"]
    assert settings["detector"] == f"file:{instances}" and settings["options"] == {"threshold": 0.5}


def test_region_retrieval_on_scenes(tmp_path):
    result = run("region-retrieval --data scenes --split test[:6]", tmp_path / "r.json")
    assert result["protocol"] == "region-retrieval"
    assert {"r1", "r5", "r10", "r1_chance", "median_rank"} == set(result["metrics"])


def test_zero_shot_and_probe_on_a_folder(folder, tmp_path, capsys):
    templates = tmp_path / "templates.txt"
    templates.write_text("a {} .\n")
    result = run(
        f"zero-shot --data image_folder --root {folder} --sentences {templates} --score method",
        tmp_path / "z.json",
    )
    assert (result["protocol"], result["data"], result["n"]) == ("zero-shot (method)", "shades", 6)
    assert result["config"]["evaluation"] == {"sentences": str(templates), "score": "method"}
    assert result["split"] == "val"
    result = run(f"probe --data image_folder --root {folder}", tmp_path / "p.json")
    assert result["metrics"]["top1"]["value"] == 100
    assert result["config"]["evaluation"]["penalty"] in PENALTIES
    main(f"compare --a {tmp_path / 'p.json'} --b {tmp_path / 'p.json'}".split())
    assert "macro_top1" in capsys.readouterr().out


def test_an_image_folder_is_data_like_any_other(folder, tmp_path):
    """A part of a split, and a protocol that knows nothing of classes."""
    data = f"--data image_folder --root {folder} --split val[:4]"
    assert run(f"zero-shot {data}", tmp_path / "z.json")["n"] == 4
    result = run(f"retrieval {data}", tmp_path / "r.json")
    assert (result["data"], result["split"], result["n"]) == ("image_folder", "val[:4]", 4)


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ("pointing", "The metric `pointing` of `grounding` is another figure"),
        ("grounding", "not that of the protocol `pointing`"),
        ("zero-shot", "--data image_folder reads --root/SPLIT/CLASS/PICTURE"),
    ],
)
def test_help_tells_what_may_be_mistaken(protocol, told, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", protocol, "--help"])
    assert stop.value.code == 0
    assert told in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("probe {data} --split train", "--train-split and --split are both 'train'"),
        ("zero-shot {data} --split test", "unknown split of an image folder 'test'"),
        ("zero-shot {data} --sentences no.txt", "no.txt: cannot be read"),
        ("zero-shot --data image_folder", "'image_folder' needs the path of its files as root"),
        ("probe --data scenes", "sorted by class: image_folder or imagenet, not 'scenes'"),
        ("probe --data imagesfolder", "unknown data set 'imagesfolder'"),
        (
            "grounding --data scenes --components.detector onnx:x",
            "--components.detector finds proposals: add --source proposals",
        ),
        ("grounding --data scenes --source both --components.detector x", "unknown detector 'x'"),
        ("region-retrival --data scenes", "unknown protocol 'region-retrival'"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, message, folder, capsys):
    line = arguments.format(data=f"--data image_folder --root {folder}")
    with pytest.raises(SystemExit) as stop:
        main(f"evaluate {line} --model scenes-clip --device cpu".split())
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_written_is_told_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path, "it is a folder"), (tmp_path / "file" / "r.json", "file")):
        with pytest.raises(SystemExit) as stop:
            main(f"evaluate retrieval --model nowhere --data scenes --json {path}".split())
        assert stop.value.code == 2
        shown = " ".join(capsys.readouterr().err.split())
        assert "cannot write" in shown and message in shown and "nowhere" not in shown


def test_an_error_of_the_system_is_one_line_with_the_path(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "r.json"))

    monkeypatch.setattr("intarsia.evaluation.result.write_result", full)
    line = f"--model scenes-clip --data scenes --split test[:2] --json {tmp_path / 'r.json'}"
    with pytest.raises(SystemExit) as stop:
        main(f"evaluate retrieval {line}".split())
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert "r.json: No space left on device" in " ".join(shown.split()) and "Traceback" not in shown


def test_a_result_is_left_alone_only_if_it_is_of_the_same_data(tmp_path, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "r.json"
    line = "retrieval --data scenes --reuse --split"
    first = run(f"{line} test[:3]", file)
    time = file.stat().st_mtime_ns
    assert run(f"{line} test[:3]", file).keys() == first.keys()
    assert file.stat().st_mtime_ns == time
    assert "r.json stands" in caplog.text
    second = run(f"{line} test[:4]", file)
    assert second["keys"]["data"] != first["keys"]["data"] and second["n"] > first["n"]
    assert "r.json is made anew: other data" in caplog.text


def test_compare_writes_what_it_prints(tmp_path, capsys):
    for name, split in (("a", "test[:3]"), ("b", "val[:3]")):
        run(f"retrieval --data scenes --split {split}", tmp_path / f"{name}.json")
    a, b, out = (tmp_path / f"{name}.json" for name in ("a", "b", "out"))
    main(f"compare --a {a} --b {a} --json {out}".split())
    found = json.loads(out.read_text())
    assert found["a"] == found["b"] == ["scenes-clip"]
    assert found["metrics"]["i2t_r1"]["value"] == 0 and found["metrics"]["i2t_r1"]["p_holm"] == 1
    assert "scenes-clip less scenes-clip" in " ".join(capsys.readouterr().out.split())
    content = json.loads(b.read_text())
    b.write_text(json.dumps(content | {"split": "test[:3]", "n": json.loads(a.read_text())["n"]}))
    with pytest.raises(SystemExit):
        main(f"compare --a {a} --b {b}".split())
    assert "data of key" in capsys.readouterr().err
