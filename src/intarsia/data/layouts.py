"""What the folder of each data set must hold, and where to get it.

Exact sizes are those of the published files. Where a size is not known for certain there is a lower
bound instead: the size of the archive that the file comes in, or a number of pictures that every
copy has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from intarsia.data.paths import is_hidden
from intarsia.errors import ConfigError, unknown

State = Literal["found", "missing", "wrong size", "incomplete"]

COCO_ZIPS = "http://images.cocodataset.org"
COCO_LABELS = f"{COCO_ZIPS}/annotations/annotations_trainval2017.zip (241 MB)"
COCO_PANOPTIC = f"{COCO_ZIPS}/annotations/panoptic_annotations_trainval2017.zip (821 MB)"
COCO_2014 = f"{COCO_ZIPS}/zips/train2014.zip (13 GB); a link to COCO's folder will do"
VG_LABELS = "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset"
VG_PICTURES = "https://cs.stanford.edu/people/rak248/VG_100K_2"
FLICKR30K_FORM = "https://shannon.cs.illinois.edu/DenotationGraph/ (a form; 4.4 GB)"
KARPATHY = (
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip (Karpathy's splits)"
)
FLICKR30K_CSV = "https://www.kaggle.com/datasets/hsankesara/flickr-image-dataset (4.4 GB)"
ENTITIES = "https://github.com/BryanPlummer/flickr30k_entities"
FLICKR8K = "https://www.kaggle.com/datasets/adityajn105/flickr8k (1 GB)"
FLICKR8K_LISTS = (
    "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip"
)
REFER = "https://github.com/lichengunc/refer"
ARO = "https://github.com/mertyg/vision-language-models-are-bows (its dataset_zoo downloads them)"
SVO = "https://github.com/google-deepmind/svo_probes"
SUGARCREPE = "https://github.com/RAIVNLab/sugar-crepe/tree/main/data"
WINOGROUND = "https://huggingface.co/datasets/facebook/winoground (an account)"
FG_OVD = "https://github.com/lorebianchi98/FG-OVD, its benchmarks"
IMAGENET = "https://image-net.org/download.php (an account; ILSVRC2012, 145 GB)"
CLASS_NAMES = (
    'names of the classes, if not those of their folders: classes.json, as {"n02123": "cat"}, or '
    "classes.txt, a line FOLDER NAME each"
)


@dataclass(frozen=True, slots=True)
class Expected:
    """A file, or the pictures of a folder.

    Args:
        path: glob pattern below the data set's folder.
        source: where it comes from.
        count: how many files match at least.
        size: bytes of the file, exactly.
        least: bytes of the file, at least.
        or_in: another folder that ``path`` may lie in.
        optional: readers do without.
    """

    path: str
    source: str
    count: int = 1
    size: int | None = None
    least: int = 1
    or_in: str | None = None
    optional: bool = False

    def files(self, root: Path) -> list[Path]:
        """What there is of it, but for hidden files such as "._1.jpg"."""
        places = root, root / (self.or_in or "")
        found = (
            [p for p in place.glob(self.path) if not is_hidden(Path(p.name))] for place in places
        )
        return next(filter(None, found), [])


@dataclass(frozen=True, slots=True)
class Finding:
    """What there is of something expected, and where it comes from."""

    data: str
    path: str
    state: State
    detail: str
    source: str
    optional: bool

    @property
    def ok(self) -> bool:
        return self.state == "found" or (self.optional and self.state == "missing")


def check(name: str, root: Path) -> list[Finding]:
    """Compare the folder of a data set with its layout.

    Args:
        name: one of ``LAYOUTS``.
        root: the folder of this data set.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in LAYOUTS:
        raise ConfigError(unknown("data set", name, LAYOUTS))
    return [
        Finding(name, item.path, *_state(item, item.files(root)), item.source, item.optional)
        for item in LAYOUTS[name]
    ]


def _state(expected: Expected, files: list[Path]) -> tuple[State, str]:
    if not files:
        return "missing", ""
    if expected.count > 1:
        enough = len(files) >= expected.count
        return "found" if enough else "incomplete", f"{len(files):,} of {expected.count:,} files"
    size = files[0].stat().st_size
    if expected.size is not None and size != expected.size:
        return "wrong size", f"{size:,} bytes, not {expected.size:,}"
    if size < expected.least:
        return "wrong size", f"{size:,} bytes, not {expected.least:,} or more"
    return "found", f"{size:,} bytes"


def _refcoco(name: str, by: str) -> tuple[Expected, ...]:
    pickled = f"{REFER} ({name}.zip; convert refs({by}).p as the reader's help says)"
    return (
        Expected(f"refs({by}).json", pickled),
        Expected("instances.json", f"{REFER} ({name}.zip)"),
        Expected("train2014/*.jpg", COCO_2014, count=82_783, or_in="images"),
    )


LAYOUTS: dict[str, tuple[Expected, ...]] = {
    "coco": (
        Expected(
            "train2017/*.jpg",
            f"{COCO_ZIPS}/zips/train2017.zip (18 GB)",
            count=118_287,
            or_in="images",
        ),
        Expected(
            "val2017/*.jpg", f"{COCO_ZIPS}/zips/val2017.zip (1 GB)", count=5_000, or_in="images"
        ),
        Expected("annotations/captions_train2017.json", COCO_LABELS, size=91_865_115),
        Expected("annotations/captions_val2017.json", COCO_LABELS, size=3_872_473),
        Expected("annotations/instances_train2017.json", COCO_LABELS, size=469_785_474),
        Expected("annotations/instances_val2017.json", COCO_LABELS, size=19_987_840),
        Expected("annotations/panoptic_val2017.json", COCO_PANOPTIC),
    ),
    "coco-karpathy": (
        Expected("dataset_coco.json", KARPATHY),
        Expected("train2014/*.jpg", COCO_2014, count=82_783, or_in="images"),
        Expected(
            "val2014/*.jpg", f"{COCO_ZIPS}/zips/val2014.zip (6 GB)", count=40_504, or_in="images"
        ),
    ),
    "visual_genome": (
        Expected(
            "VG_100K*/*.jpg",
            f"{VG_PICTURES}/images.zip and {VG_PICTURES}/images2.zip (together 15 GB)",
            count=108_077,
            or_in="images",
        ),
        Expected("image_data.json", f"{VG_LABELS}/image_data.json.zip", least=1_700_000),
        Expected(
            "region_descriptions.json",
            f"{VG_LABELS}/region_descriptions.json.zip (127 MB)",
            least=127_377_968,
        ),
        Expected(
            "attributes.json",
            f"{VG_LABELS}/attributes.json.zip (83 MB)",
            least=83_000_000,
            optional=True,
        ),
        Expected(
            "relationships.json",
            f"{VG_LABELS}/relationships.json.zip (78 MB)",
            least=77_904_473,
            optional=True,
        ),
    ),
    "flickr30k": (
        Expected("dataset_flickr30k.json", KARPATHY),
        Expected("flickr30k-images/*.jpg", FLICKR30K_FORM, count=31_014),
    ),
    "flickr30k-csv": (
        Expected("results.csv", FLICKR30K_CSV),
        Expected("flickr30k_images/*.jpg", FLICKR30K_CSV, count=31_783),
        *(Expected(f"{split}.txt", ENTITIES, optional=True) for split in ("train", "val", "test")),
    ),
    "flickr30k_entities": (
        Expected("Annotations/*.xml", f"{ENTITIES} (annotations.zip)", count=31_783),
        Expected("Sentences/*.txt", f"{ENTITIES} (annotations.zip)", count=31_783),
        *(Expected(f"{split}.txt", ENTITIES) for split in ("train", "val", "test")),
        Expected(
            "flickr30k-images/*.jpg",
            f"{FLICKR30K_FORM}; a link to flickr30k/flickr30k-images will do",
            count=31_783,
        ),
    ),
    "flickr8k": (
        Expected("Images/*.jpg", FLICKR8K, count=8_000),
        Expected("captions.txt", FLICKR8K),
        *(
            Expected(f"Flickr_8k.{split}Images.txt", FLICKR8K_LISTS)
            for split in ("train", "dev", "test")
        ),
    ),
    "flickr8k-karpathy": (
        Expected("dataset_flickr8k.json", KARPATHY),
        Expected("Images/*.jpg", FLICKR8K, count=8_000),
    ),
    "refcoco": _refcoco("refcoco", "unc"),
    "refcoco+": _refcoco("refcoco+", "unc"),
    "refcocog": _refcoco("refcocog", "umd"),
    "image_folder": (
        Expected(
            "*/*/*",
            "your own pictures, sorted into folders: SPLIT/CLASS/PICTURE, as val/cat/1.jpg",
            count=2,
        ),
        Expected("classes.*", CLASS_NAMES, optional=True),
    ),
    "imagenet": (
        Expected("val/*/*.JPEG", f"{IMAGENET}, sorted into folders by class", count=50_000),
        Expected(
            "train/*/*.JPEG", f"{IMAGENET}, for the probe only", count=1_281_167, optional=True
        ),
        Expected("classes.*", CLASS_NAMES, optional=True),
    ),
    "aro": (
        Expected("visual_genome_relation.json", ARO),
        Expected("visual_genome_attribution.json", ARO),
        Expected("images/*.jpg", ARO),
    ),
    "svo": (
        Expected("svo_probes.csv", SVO),
        Expected("images/*", f"{SVO} (image_urls.txt; links die, and what is gone is counted)"),
    ),
    "sugarcrepe": tuple(
        Expected(f"{kind}_{part}.json", SUGARCREPE)
        for kind, parts in (("add", "att obj"), ("replace", "att obj rel"), ("swap", "att obj"))
        for part in parts.split()
    ),
    "winoground": (
        Expected("examples.jsonl", WINOGROUND),
        Expected("images/*.png", WINOGROUND, count=800),
    ),
    "fg-ovd": tuple(
        Expected(f"{name}.json", FG_OVD)
        for name in (
            *(f"{number}_attributes" for number in (1, 2, 3)),
            *("shuffle_negatives", "color", "material", "pattern", "transparency"),
        )
    ),
}
PAPER = ("visual_genome", "flickr30k", "flickr30k_entities", "coco", "aro", "svo", "sugarcrepe")
"""What the experiments of docs/paper.md ask for."""
