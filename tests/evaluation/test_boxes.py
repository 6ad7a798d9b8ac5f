"""Box classification, against numbers worked by hand and a slow reference of its own."""

import json
import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import roi_align

from intarsia.backbones.loading import load_backbone
from intarsia.cli import main
from intarsia.data.coco import Category, coco_categories
from intarsia.data.images import load_image
from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.errors import ConfigError, DataError
from intarsia.evaluation.boxes import (
    BOX_PROTOCOLS,
    Ranked,
    box_outcomes,
    class_ranks,
    class_vectors,
    crop_vectors,
    labelled_boxes,
    roi_vectors,
    square_input,
)
from intarsia.evaluation.harness import evaluate_boxes
from intarsia.evaluation.metrics import summarise
from intarsia.evaluation.prompts import TEMPLATES, prompts, spoken
from intarsia.methods import Clip
from intarsia.model import Model
from intarsia.runtime import data_root, seed_everything
from intarsia.types import Record, Region

DOG, CAT, SKY = Category("dog"), Category("cat"), Category("sky-other-merged", False)
CATEGORIES = (DOG, CAT, SKY)


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def model_for(categories) -> Model:
    """A random CLIP that knows the words of every prompt."""
    sentences = [text for c in categories for text, _ in prompts(c.name)]
    words = {word for text in sentences for word in words_of(text)}
    seed_everything(0)
    backbone = load_backbone("scenes-clip", words=sorted(words))
    return Model(backbone, Clip(backbone.dims)).eval()


@pytest.fixture(scope="module")
def model() -> Model:
    return model_for(CATEGORIES)


def noise(width, height, seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def boxes_of(*regions, size=(2000, 1500), protocol="clipself", problems=None):
    numbers = {c.name: n for n, c in enumerate(CATEGORIES)}
    record = Record("r", b"", (), regions)
    problems = Problems() if problems is None else problems
    return labelled_boxes(record, size, numbers, BOX_PROTOCOLS[protocol], problems)


# ---- which boxes count ------------------------------------------------------------------------


def test_limits_of_area_are_inside_the_panoptic_protocols_only():
    squares = [Region((0, 0, w, h), "dog") for w, h in ((8, 8), (7, 9), (1024, 1024), (1025, 1024))]
    problems = Problems()
    assert boxes_of(*squares, problems=problems)[0] == [(0, 0, 8, 8), (0, 0, 1024, 1024)]
    assert "2 skipped: box smaller or larger" in problems.summary()
    assert len(boxes_of(*squares, protocol="instances")[0]) == 4


def test_ten_thousand_regions_are_cut_to_the_first_hundred():
    labels = ["cat"] * 100 + ["dog"] * 9900
    regions = [Region((0, 0, 50, 50), label) for label in labels]
    problems = Problems()
    assert boxes_of(*regions, problems=problems)[1] == [1] * 100
    assert "9900 skipped: box after the first 100" in problems.summary()
    assert len(boxes_of(*regions, protocol="instances")[0]) == 10_000


def test_boxes_are_cut_at_the_border_and_bad_ones_named():
    problems = Problems()
    boxes, labels = boxes_of(
        Region((-5, 10, 60, 90), "dog"),
        Region((100, 0, 140, 40), "dog"),
        Region((10, 10, 40, 40), "wolf"),
        Region((10, 10, 40, 40)),
        Region((40, 10, 10, 40), "dog"),
        Region((10, 10, 40, 40), "sky-other-merged"),
        size=(100, 80),
        problems=problems,
    )
    assert (boxes, labels) == ([(0, 10, 60, 80), (10, 10, 40, 40)], [0, 2])
    assert [(p.source, p.field, p.reason) for p in problems] == [
        ("r", "regions[1]", "box (100, 0, 140, 40) misses the picture of 100 x 80 pixels"),
        ("r", "regions[2]", "'wolf' is not one of the categories"),
        ("r", "regions[4]", "box (40, 10, 10, 40) misses the picture of 100 x 80 pixels"),
    ]
    assert "1 skipped: box without a label" in problems.summary()


# ---- vectors ----------------------------------------------------------------------------------


def reference_map(model: Model, image: Image.Image) -> torch.Tensor:
    """(1,D,h,w) normalised patches of a picture in the corner of a black square."""
    side = model.backbone.transform.size
    width, height = (round(s * side / max(image.size)) for s in image.size)
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[:height, :width] = image.resize((width, height), model.backbone.transform.resample)
    pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None]
    with torch.no_grad():
        patches = model.backbone.encode_image(pixels, dense="value").image_patches
    unit = patches / patches.norm(dim=2, keepdim=True)
    return unit.mT.reshape(1, -1, 7, 7)


def reference_roi(dense: torch.Tensor, box, longest: int) -> torch.Tensor:
    """One box by torchvision, in pixels of the 112 x 112 input."""
    scaled = [0.0, *(side * 112 / longest for side in box)]
    pooled = roi_align(dense, torch.tensor([scaled]), 1, spatial_scale=1 / 16, aligned=True)
    return pooled.flatten() / pooled.norm()


def test_rois_are_those_of_torchvision_box_by_box(model):
    images = [noise(90, 60, 1), noise(40, 120, 2), noise(500, 500, 3)]
    boxes = [[(3, 4, 80, 50), (60.5, 20, 61, 59)], [(0, 0, 40, 120)], [(400, 10, 499, 300)]]
    found = roi_vectors(model, images, boxes)
    wanted = [
        reference_roi(reference_map(model, image), box, max(image.size))
        for image, some in zip(images, boxes, strict=True)
        for box in some
    ]
    torch.testing.assert_close(found, torch.stack(wanted), atol=2e-5, rtol=0)


def test_crops_are_enlarged_and_cut_from_the_original(model):
    image = noise(300, 200)
    by_hand = [image.crop((90, 45, 150, 75)), image.crop((0, 0, 80, 80))]
    with square_input(model, None):
        wanted = model.image_features(by_hand).image_global
        found = crop_vectors(model, [image], [[(100, 50, 140, 70), (0, 0, 80, 80)]], [[1.5, 1.0]])
    torch.testing.assert_close(found, wanted / wanted.norm(dim=1, keepdim=True))


def test_a_larger_input_has_a_finer_grid_and_leaves_the_model_as_it_was(model):
    before = model.backbone.transform, model.backbone.dims, model.method.dims
    image, boxes = noise(224, 224), [[(0, 0, 8, 8), (8, 0, 16, 8)]]
    with square_input(model, 224):
        assert model.backbone.dims.grid == (14, 14)
        fine = roi_vectors(model, [image], boxes)
    assert (model.backbone.transform, model.backbone.dims, model.method.dims) == before
    assert fine.shape == (2, 128) and not torch.equal(fine[0], fine[1])
    with (
        pytest.raises(ConfigError, match="input size 100 does not .* a multiple of 16"),
        square_input(model, 100),
    ):
        pass


def test_class_vectors_are_means_of_normalised_prompts_one_by_one(model):
    found = class_vectors(model, ["dog", "sky-other-merged"], "global")
    for vector, name in zip(found, ("dog", "sky"), strict=True):
        each = []
        for template in TEMPLATES:
            text = template.replace("{a}", "a").replace("{}", name)
            whole = model.text_features([text]).text_global[0]
            each.append(whole / whole.norm())
        mean = sum(each) / len(each)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=0)


def test_tokens_of_the_name_are_pooled_inside_each_prompt():
    model = model_for([Category("wall-brick")])
    (found,) = class_vectors(model, ["wall-brick"], "tokens")
    each = []
    for template in TEMPLATES:
        text = template.replace("{a}", "a").replace("{}", "brick wall")
        place = words_of(text).index("brick")
        features = model.text_features([text])
        states = features.text_tokens[0][features.text_mask[0]][place : place + 2]
        lexeme = (states / states.norm(dim=1, keepdim=True)).mean(0)
        each.append(lexeme / lexeme.norm())
    mean = sum(each) / len(each)
    torch.testing.assert_close(found, mean / mean.norm(), atol=1e-5, rtol=0)


def test_the_method_says_what_regions_are_compared_with(model):
    class Mirrored(Clip):
        def phrase_vectors(self, text):
            return -super().phrase_vectors(text)

    other = Model(model.backbone, Mirrored(model.backbone.dims)).eval()
    names = ["dog", "cat"]
    usual = class_vectors(model, names, "method")
    assert torch.equal(usual, class_vectors(model, names, "global"))
    torch.testing.assert_close(class_vectors(other, names, "method"), -usual)
    assert torch.equal(class_vectors(other, names, "global"), usual)


def test_spans_of_prompts_hold_the_spoken_name():
    for name in ("elephant", "floor-wood", "door-stuff", "hair drier"):
        for text, (start, end) in prompts(name):
            assert text[start:end] == spoken(name)
            assert "{" not in text and "a elephant" not in text
    assert len({text for text, _ in prompts("dog")}) == len(TEMPLATES)


# ---- figures ----------------------------------------------------------------------------------


def test_figures_worked_by_hand():
    """Dog: ranks 0, 0, 7, 2; cat: 4; sky: 5, 0. Top-1 of dog is 1/2, of cat 0, of sky 1/2."""
    found = Ranked(
        np.array([0, 0, 7, 2, 4, 5, 0]), np.array([0, 0, 0, 0, 1, 2, 2]), np.arange(7) // 2
    )

    def values(protocol):
        outcomes = box_outcomes(found, CATEGORIES, BOX_PROTOCOLS[protocol])
        return {name: (m.value, m.n) for name, m in summarise(outcomes).items()}

    assert values("clipself") == {
        "thing_top1": (25.0, 5),
        "thing_top5": ((75 + 100) / 2, 5),
        "stuff_top1": (50.0, 2),
        "stuff_top5": (50.0, 2),
    }
    assert values("fineclip") == {
        "top1": (pytest.approx(100 / 3), 7),
        "top5": (pytest.approx((75 + 100 + 50) / 3), 7),
    }
    assert values("instances") == {
        "top1": (pytest.approx(300 / 7), 7),
        "top5": (pytest.approx(500 / 7), 7),
    }


def test_the_interval_of_a_macro_mean_draws_whole_pictures():
    """Two boxes a picture, always both right or both wrong: as wide as for one box a picture."""
    rng = np.random.default_rng(0)
    labels, right = rng.integers(0, 2, 150), rng.random(150) < 0.5
    one = Ranked(np.where(right, 0, 9), labels, np.arange(150))
    two = Ranked(*(np.repeat(column, 2) for column in (one.ranks, labels, np.arange(150))))
    widths = []
    for found in (one, two):
        outcomes = box_outcomes(found, CATEGORIES, BOX_PROTOCOLS["fineclip"])
        low, high = summarise(outcomes)["top1"].ci95
        widths.append(high - low)
    assert widths[0] == pytest.approx(widths[1], rel=0.02)
    assert widths[0] > 10


def test_ties_and_nan_are_not_hits():
    classes = torch.ones(6, 2)
    assert class_ranks(torch.ones(1, 2), classes, np.array([0])).tolist() == [5]
    with pytest.raises(DataError, match=r"scores of the categories hold NaN, first at \[0, 0\]"):
        class_ranks(torch.full((1, 2), torch.nan), classes, np.array([0]))


def test_all_agrees_with_a_loop_over_real_boxes():
    root = data_root() / "coco"
    if not (root / "annotations" / "panoptic_train2017.json").is_file():
        pytest.skip(f"no COCO sample in {root}")
    categories = coco_categories(root, "panoptic_train2017")
    names = [c.name for c in categories]
    model = model_for(categories)
    records = list(read("coco", root, "panoptic_train2017[:10]"))
    evaluation = evaluate_boxes(
        model, records, Problems(), categories=categories, protocol="clipself", text="global"
    )
    classes = class_vectors(model, names, "global")
    hits: dict[tuple[bool, int], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        image = load_image(record.image)
        dense = reference_map(model, image)
        for region in record.regions:
            x0, y0, x1, y1 = region.box
            if not 64 <= (x1 - x0) * (y1 - y0) <= 1024**2:
                continue
            vector = reference_roi(dense, region.box, max(image.size))
            best = (classes @ vector).topk(5).indices.tolist()
            is_thing = categories[names.index(region.label)].is_thing
            for k in (1, 5):
                hits[is_thing, k][region.label].append(region.label in [names[b] for b in best[:k]])
    for prefix, is_thing in (("thing", True), ("stuff", False)):
        for k in (1, 5):
            found = hits[is_thing, k]
            macro = 100 * sum(sum(h) / len(h) for h in found.values()) / len(found)
            metric = evaluation.metrics[f"{prefix}_top{k}"]
            assert metric.value == pytest.approx(macro)
            assert metric.n == sum(len(h) for h in found.values())


# ---- the whole --------------------------------------------------------------------------------


def test_without_a_table_the_labels_of_the_records_are_the_categories(model):
    image = np.asarray(noise(64, 64))
    regions = (Region((0, 0, 30, 30), "dog"), Region((5, 5, 60, 60), "cat"), Region((0, 0, 9, 9)))
    record = Record("r", image, (), regions)
    for features in ("roi", "crop"):
        problems = Problems()
        metrics = evaluate_boxes(model, [record], problems, features=features).metrics
        assert (metrics["top1"].n, metrics["top5"].value) == (2, 100.0)
        assert "1 skipped: box without a label" in problems.summary()


def test_broken_pictures_and_no_boxes_are_told(model):
    whole = Record("a", np.asarray(noise(64, 64)), (), (Region((0, 0, 30, 30), "dog"),))
    broken = Record("b", b"none", (), whole.regions)
    with pytest.raises(DataError, match="b: image: picture of 4 bytes: cannot be decoded"):
        evaluate_boxes(model, [whole, broken], Problems())
    assert evaluate_boxes(model, [whole, broken], Problems(1.0)).metrics["top1"].n == 1
    nothing = Record("c", whole.image, ("text",))
    with pytest.raises(DataError, match="there are no categories"):
        evaluate_boxes(model, [nothing], Problems())
    with pytest.raises(DataError, match="no picture has a labelled box that counts"):
        evaluate_boxes(model, [nothing], Problems(), categories=CATEGORIES)


@pytest.fixture
def coco_root(tmp_path):
    categories = [
        {"id": 1, "name": "circle", "isthing": 1},
        {"id": 2, "name": "wall-other-merged", "isthing": 0},
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in (1, 2, 3)]
    segments = [
        {"id": 1, "category_id": 1, "bbox": [2, 2, 20, 20], "iscrowd": 0},
        {"id": 2, "category_id": 2, "bbox": [0, 0, 64, 48], "iscrowd": 0},
    ]
    panoptic = [{"image_id": i, "file_name": f"{i}.png", "segments_info": segments} for i in (1, 2)]
    instances = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9]} for i in (1, 3)]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    for kind, annotations in (("panoptic", panoptic), ("instances", instances)):
        content = {"images": images, "categories": categories, "annotations": annotations}
        (tmp_path / "annotations" / f"{kind}_val2017.json").write_text(json.dumps(content))
    for i in (1, 2, 3):
        noise(64, 48, i).save(tmp_path / "val2017" / f"{i}.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "protocol", "counts"),
    [
        ("--protocol clipself", "boxes-clipself-roi", {"thing_top1": 2, "stuff_top5": 2}),
        ("--protocol fineclip --text tokens", "boxes-fineclip-roi", {"top1": 4}),
        ("--features crop --input-size 224", "boxes-instances-crop", {"top1": 2, "top5": 2}),
    ],
)
def test_the_command_line_reads_the_annotation_that_the_protocol_asks_for(
    coco_root, tmp_path, options, protocol, counts
):
    file = tmp_path / "result.json"
    main(
        f"evaluate boxes {options} --model scenes-clip --data coco --root {coco_root} "
        f"--split val2017[:3] --device cpu --json {file}".split()
    )
    result = json.loads(file.read_text())
    assert (result["protocol"], result["split"]) == (protocol, "val2017[:3]")
    assert {name: result["metrics"][name]["n"] for name in counts} == counts
    assert result["config"]["evaluation"]["input_size"] == (224 if "224" in options else None)


def test_panoptic_protocols_refuse_other_data(capsys):
    with pytest.raises(SystemExit):
        main("evaluate boxes --protocol clipself --model scenes-clip --data scenes".split())
    assert "reads coco, not 'scenes'" in " ".join(capsys.readouterr().err.split())
