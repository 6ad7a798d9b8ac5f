"""Settings that cannot go together, found out before any picture is read.

Whoever starts a run calls :func:`check`; the parts that a setting concerns call their own line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from torch.nn.modules.batchnorm import _BatchNorm

from intarsia.data.records import Records
from intarsia.encode.components import ComponentSpec
from intarsia.errors import ConfigError, TrainingError
from intarsia.model import WEIGHTS, Model
from intarsia.training.checkpoint import LAST
from intarsia.training.settings import Settings

CACHED = ("towers", "backbone")  # where pairs are what frozen towers have made of them


def check(model: Model, trainer: Settings, num_pairs: int, *, pseudo: bool = False) -> None:
    """Whether a model can be trained as asked.

    Args:
        model: as it will train: in training mode.
        trainer: whose number of devices is known (:meth:`Settings.launch`).
        num_pairs: captions of all pictures.
        pseudo: phrases are to be matched to boxes.

    Raises:
        ConfigError: it cannot; the message names the settings and what would do.
    """
    if trainer.flip:
        check_flip(model)
    if trainer.layer_decay is not None:
        check_layer_decay(model, trainer.layer_decay)
    if trainer.grad_cache_chunk is not None:
        check_batch_norm(model)
    if model.freeze in CACHED and (trainer.patch_dropout or trainer.checkpointing):
        raise ConfigError(
            "trainer.patch_dropout and trainer.checkpointing are for towers that train, but "
            f"freeze: {model.freeze} keeps what frozen ones give: leave them out"
        )
    if pseudo:
        check_pseudo(model)
    check_components(model)
    check_crops(model)
    check_batch_size(num_pairs, trainer.batch_size, trainer.fabric.world_size)


def check_out(out: Path, *, resume: bool) -> None:
    """
    Raises:
        TrainingError: the folder holds a run that is not to be resumed.
    """
    if not resume and any((out / name).exists() for name in (WEIGHTS, LAST)):
        raise TrainingError(f"{out} already holds a run: add --resume, or choose another --out")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Nobody else trains in the folder meanwhile.

    Raises:
        TrainingError: somebody does.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise TrainingError(f"another process trains in {out}: choose another --out") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before somebody else can have it
        lock.release()


def check_links(model: Model, records: Records) -> None:
    """
    Raises:
        ConfigError: the method learns from phrases and their boxes, and there are none.
    """
    if "links" in model.method.needs and not records.num_phrases:
        raise ConfigError(
            f"{type(model.method).__name__} learns from phrases that are linked to boxes, and none "
            f"of {len(records)} records has any: find them with --pseudo.detector, as "
            "onnx:yolox_nano.onnx"
        )


def check_hard_negatives(model: Model) -> None:
    if model.matches_components:
        raise ConfigError(
            f"hard_negatives are whole texts, but {type(model.method).__name__} trains on the "
            "components of captions: set it to null, or choose a method without components, as Clip"
        )


def check_flip(model: Model) -> None:
    if model.freeze in CACHED:
        raise ConfigError(
            f"trainer.flip mirrors pictures, but freeze: {model.freeze} trains on what frozen "
            "towers have made of them: set flip to false, or choose freeze none, image or text"
        )


def check_layer_decay(model: Model, decay: float) -> None:
    if not 0 < decay <= 1:
        raise ConfigError(f"trainer.layer_decay is {decay}: choose above 0 and at most 1, or null")
    if model.freeze in CACHED and not model.backbone.ends_train:
        raise ConfigError(
            f"trainer.layer_decay is for towers that train, but freeze: {model.freeze} freezes "
            "both: set layer_decay to null, or choose freeze none, image or text"
        )


def check_batch_norm(model: Model) -> None:
    """Gradient caching shows a model the pairs of a batch chunk by chunk."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise ConfigError(
                f"trainer.grad_cache_chunk cannot train {name}: {type(module).__name__} takes its "
                "statistics from the pairs that it sees together, which would be those of a chunk. "
                "Freeze the towers (freeze: towers or backbone) or set grad_cache_chunk to null"
            )


def check_pseudo(model: Model) -> None:
    if "links" not in model.method.needs:
        raise ConfigError(
            f"pseudo makes links of phrases to regions, which {type(model.method).__name__} "
            "does not use: set it to null, or choose HarmoClip"
        )


def check_components(model: Model) -> None:
    own, found = getattr(model.method, "num_entities", None), model.component_spec.num_entities
    if model.matches_components and own is not None and own != found:
        raise ConfigError(
            f"method.num_entities is {own}, but components.num_entities is {found}: the relations' "
            "places in the sequence come after those of so many entities, so give both the same"
        )
    if not model.matches_components and model.component_spec != ComponentSpec():
        raise ConfigError(
            f"components has settings, but {type(model.method).__name__} matches none: leave them "
            "out, or choose ComAlign"
        )


def check_crops(model: Model) -> None:
    if "crops" in model.method.needs and model.freeze in CACHED:
        raise ConfigError(
            f"crops of regions need the pixels, but freeze: {model.freeze} trains "
            f"{type(model.method).__name__} on what frozen towers have made of whole pictures: "
            "choose freeze none, image or text, or no crops (HarmoClip: gr_target phrase or image)"
        )


def check_batch_size(num_pairs: int, batch_size: int, world: int) -> None:
    if num_pairs < batch_size * world:
        raise ConfigError(
            f"a batch of {batch_size} on each of {world} ranks is more than {num_pairs} pairs: "
            "lower trainer.batch_size"
        )
