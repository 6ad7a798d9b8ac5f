"""Content keys: of data, of weights, of a config and of the code that measures.

Sweeps, suites and comparisons decide by them whether a run or a result can stand, never by a name
or by "the file is there". Pictures are known by their bytes, not by paths, sizes or times: to read
them is a small part of decoding them, and a copy of a data set has the key of the original. A file
is hashed once a process, and again when its size or time has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from intarsia.backbones.loading import backbone_places
from intarsia.components.detections import local_source
from intarsia.data.records import Records
from intarsia.errors import ConfigError
from intarsia.model import WEIGHTS, Model, method_class
from intarsia.own_code import own_code
from intarsia.runtime import atomic, bar
from intarsia.shipped import shipped
from intarsia.types import FilePart

PACKAGE = Path(__file__).parent
NOT_MEASURING = frozenset(
    "apps cli suite templates training demo.py export.py identity.py report.py sweep".split()
)
"""Parts of the package that no figure depends on once a model is trained."""
PLACES = ("image", "size", "source")
"""Fields of records and cases that say where something lies, and what a picture's bytes say: the
picture counts by these."""
RUN_KEYS = "keys.json"
NOT_LEARNT = ("log_every", "save_every", "validate_every", "num_workers", "accelerator")
"""Settings of a trainer that change nothing of what is learnt."""


Keys = dict[str, str]


def result_keys(model: Model, items: Iterable[Any], config: Mapping[str, Any]) -> Keys:
    """Of a result: what was asked, of whom, with which settings, by which code."""
    return {
        "data": data_key(items),
        "model": model_key(model),
        "config": config_key(config),
        "code": code_key(),
    }


def data_key(items: Iterable[Any]) -> str:
    """Of records, of a benchmark's cases, or of lists of these: all that they say and show."""
    digest = hashlib.sha256()
    if isinstance(items, Records):
        with bar(len(items), "identity of records") as advance:
            for record, picture in items.known():
                digest.update(_counted(_item(record, picture)))
                advance(1)
    else:
        for item in items:
            digest.update(_counted(_item(item)))
    return digest.hexdigest()[:16]


def model_key(model: Model) -> str:
    """Of the weights, of how the backbone takes pictures and texts, of the method's settings, and
    of what finds components, a detector's files too."""
    digest = hashlib.sha256(model.backbone.fingerprint().encode())
    settings = {name: _settings(module) for name, module in model.method.named_modules()}
    digest.update(f"{type(model.method).__name__}{model.dense}{settings}".encode())
    written = map(type, [*model.method.modules(), *model.method.terms])
    digest.update("".join(own_code(written)).encode())
    if model.matches_components:
        detector = model.components.detector
        seen_by = "" if detector is None else detector.fingerprint()
        read_by = model.components.parser.fingerprint()
        digest.update(f"{model.component_spec}{seen_by}{read_by}".encode())
    for name, value in sorted(model.trained_state().items()):
        digest.update(_tensor(name, value))
    return digest.hexdigest()[:16]


def config_key(config: Mapping[str, Any]) -> str:
    """Of plain settings, in any order; one that is not set (null, false) is as good as absent.

    >>> config_key({"lr": 0.1, "flip": False}) == config_key({"lr": 0.1})
    True
    >>> config_key({"lr": 0.1, "seed": 0}) == config_key({"lr": 0.1, "seed": 1})
    False
    """
    text = json.dumps(_set(dict(config)), default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_key() -> str:
    """Of the source of all that a figure depends on: readers, models, protocols."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] not in NOT_MEASURING:
            digest.update(f"{inside.as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run_keys(config: Mapping[str, Any], data: str, start: Path | None) -> Keys:
    """Of what a run is trained from: the settings, and what is in the files of the backbone, of
    detectors and of a method of the user's own.

    Args:
        config: the resolved one. Where its data and its start lie does not count.
        data: the key of its records.
        start: the folder it goes on from.
    """
    files = [*_files(config), *_code(config)]
    return {
        "config": config_key({**learnt_from(config), "files": files}),
        "data": data,
        "start": "" if start is None else weights_key(start),
    }


def learnt_from(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that what is learnt depends on; not where data or the start lie."""
    settings = {**config, "init": None}
    for part in ("data", "validation"):
        if settings.get(part):
            settings[part] = {**settings[part], "root": None}
    trainer = settings.get("trainer") or {}
    return {**settings, "trainer": {k: v for k, v in trainer.items() if k not in NOT_LEARNT}}


def differences(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In words, which settings of two configs differ.

    >>> differences({"trainer": {"steps": 3, "lr": 1}}, {"trainer": {"steps": 4, "lr": 1}})
    ['trainer.steps is 3 there, 4 here']
    """
    sides = [_flat(_set(config)) for config in (kept, wanted)]
    names = sorted(sides[0].keys() | sides[1].keys())
    pairs = ((name, *(side.get(name) for side in sides)) for name in names)
    return [f"{name} is {there} there, {here} here" for name, there, here in pairs if there != here]


def _flat(settings: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{place}{name}.") if inner else {f"{place}{name}": value}
    return found


def _code(settings: Mapping[str, Any]) -> list[str]:
    """Of the method's class, where the user has written it."""
    path = (settings.get("method") or {}).get("class_path")
    return own_code([method_class(path)]) if path else []


def _files(settings: Mapping[str, Any]) -> list[str]:
    """Of the files that the backbone is, and that detectors are (``onnx:FILE``, ``hf:FOLDER``) or
    read (``file:FILE``)."""
    backbone = (settings.get("backbone") or {}).get("spec")
    specs = ((settings.get(part) or {}).get("detector") for part in ("pseudo", "components"))
    places = [Path(local_source(spec.partition(":")[2])) for spec in specs if spec]
    places += backbone_places(backbone) if backbone else []
    files = (
        file
        for place in places
        for file in (sorted(place.rglob("*")) if place.is_dir() else [place])
    )
    return [_of_file(file) for file in files if file.is_file()]


def weights_key(folder: Path) -> str:
    """Of the weights in a trained model's folder; the order of what the file says varies.

    Raises:
        ConfigError: It is not such a folder.
    """
    folder = shipped(folder)
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder} is not a trained model: it has no {WEIGHTS}")
    digest = hashlib.sha256()
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        digest.update(f"{sorted((file.metadata() or {}).items())}".encode())
        for name in sorted(file.keys()):
            digest.update(_tensor(name, file.get_tensor(name)))
    return digest.hexdigest()[:16]


def keep_run_keys(folder: Path, keys: Keys) -> None:
    """Write into a run's folder what it is made from."""
    with atomic(folder / RUN_KEYS) as draft:
        draft.write_text(json.dumps(keys, indent=1) + "\n", encoding="utf-8")


def kept_run_keys(folder: Path) -> Keys:
    """What a run's folder says that it was made from; nothing of a run that does not say it."""
    try:
        return dict(json.loads((folder / RUN_KEYS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def differing(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words, which keys are not the wanted ones; empty where all are.

    >>> differing({"data": "1", "code": "2"}, {"data": "1", "code": "3"})
    'other code'
    >>> differing({}, {"data": "1"})
    'no keys of what it was made from'
    """
    if not kept:
        return "no keys of what it was made from"
    other = [name for name in wanted if kept.get(name) != wanted[name]]
    return f"other {' and '.join(other)}" if other else ""


def _settings(module: nn.Module) -> dict[str, Any]:
    """The plain values that a module keeps."""
    return {
        name: sorted(map(str, value)) if isinstance(value, frozenset | set) else value
        for name, value in sorted(vars(module).items())
        if _is_plain(value) and not name.startswith("_") and name != "training"
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, (*value.keys(), *value.values())))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | type(None))


def _tensor(name: str, value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().flatten()
    data = flat.view(torch.uint8).numpy()
    return f"{name} {value.dtype} {tuple(value.shape)}".encode() + data.tobytes()


def _counted(text: str) -> bytes:
    """No two lists of texts are the same, one behind the other."""
    data = text.encode("utf-8", "surrogatepass")
    return f"{len(data)} ".encode() + data


def _item(item: Any, picture: bytes | None = None) -> str:
    """All of an item; ``picture`` is the hash of its picture's bytes, where that is known."""
    if isinstance(item, list | Records):
        return data_key(item)
    if not hasattr(item, "__dataclass_fields__"):
        return f"{item}\n"
    told = {f.name: getattr(item, f.name) for f in fields(item) if f.name not in PLACES}
    seen = picture.hex() if picture else _picture(getattr(item, "image", None))
    return f"{type(item).__name__} {told} {seen}\n"


def _picture(image: Any) -> str:
    if isinstance(image, Path):
        return _of_file(image) if image.is_file() else "missing"
    if isinstance(image, np.ndarray):
        pixels = np.ascontiguousarray(image)
        return f"{pixels.shape}{hashlib.sha256(pixels.data).hexdigest()}"
    content = image.read() if isinstance(image, FilePart) else image
    return "" if content is None else hashlib.sha256(content).hexdigest()


def _of_file(path: Path) -> str:
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(2**18)
def _hashed(path: Path, size: int, time: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _set(value: Any) -> Any:
    """Without what is null or false."""
    if isinstance(value, Mapping):
        return {k: _set(v) for k, v in value.items() if v is not None and v is not False}
    return [_set(item) for item in value] if isinstance(value, list | tuple) else value
