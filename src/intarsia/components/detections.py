"""What all detectors share: names of classes, from arrays to regions, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from intarsia.errors import DataError, IntarsiaError
from intarsia.runtime import models_root
from intarsia.types import Region

THRESHOLD = 0.3  # below it most boxes are wrong: noise as components, though welcome to AP

COCO_80 = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,"
    "bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush".split(",")
)


def best_first(boxes: Tensor, scores: Tensor, labels: Sequence[str]) -> list[Region]:
    """Boxes (R,4), scores (R,) and R labels -> regions, best first."""
    order = scores.argsort(descending=True, stable=True).tolist()
    corners, sure = boxes.double().tolist(), scores.double().tolist()
    return [Region(tuple(corners[i]), labels[i], sure[i]) for i in order]


def fingerprint(settings: object, state: Mapping[str, Tensor]) -> str:
    """A hash of a detector's settings (their ``repr``) and weights."""
    digest = hashlib.sha256(repr(settings).encode())
    for key, value in sorted(state.items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def local_source(source: str) -> str:
    """The file or folder ``source`` of :func:`intarsia.runtime.models_root`, else ``source``."""
    local = models_root() / source
    return str(local) if not Path(source).exists() and local.exists() else source


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns what goes wrong while a detector is loaded into a DataError that names it."""
    try:
        yield
    except IntarsiaError:
        raise
    except Exception as error:  # each library has kinds of its own
        raise DataError(f"detector {source!r} cannot be loaded: {error}") from error
