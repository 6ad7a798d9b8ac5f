"""Content keys: of data, of weights, of a config and of the code that measures.

Sweeps, suites and comparisons decide by them whether a run or a result can stand, never by a name
or by "the file is there". Pictures are known by their bytes, not by paths, sizes or times: to read
them is a small part of decoding them, and a copy of a data set has the key of the original. A file
is hashed once a process, and again when its size or time has changed.
"""

from __future__ import annotations

import hashlib
import inspect
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

from intarsia.components.detections import local_source
from intarsia.data.records import Records
from intarsia.errors import ConfigError
from intarsia.model import WEIGHTS, Model
from intarsia.runtime import atomic, bar
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
NOT_LEARNT = ("log_every", "save_every", "num_workers")
"""Settings of a trainer that change nothing of what is learnt."""

NOT_OWN = ("intarsia", "torch", "abc", "builtins")

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
    digest.update("".join(_own_code([model.method, *model.method.terms])).encode())
    if model.matches_components:
        detector = model.components.detector
        seen_by = "" if detector is None else detector.fingerprint()
        read_by = model.components.parser.fingerprint()
        digest.update(f"{model.component_spec}{seen_by}{read_by}".encode())
    for name, value in sorted(model.trained_state().items()):
        digest.update(_tensor(name, value))
    return digest.hexdigest()[:16]


def _own_code(parts: Iterable[object]) -> list[str]:
    """Hashes of the files in which the user has written the classes of some objects; those of the
    package are in :func:`code_key`."""
    bases = (base for part in parts for base in type(part).__mro__)
    own = {base for base in bases if base.__module__.partition(".")[0] not in NOT_OWN}
    files = {inspect.getsourcefile(base) for base in own if base.__module__ != "__main__"}
    return [_of_file(Path(file)) for file in sorted(filter(None, files))]


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
    """Of what a run is trained from; of detectors in the config what is in their files.

    Args:
        config: the resolved one. Where its data and its start lie does not count.
        data: the key of its records.
        start: the folder it goes on from.
    """
    settings = {**config, "init": None}
    for part in ("data", "validation"):  # where they lie does not count
        if settings.get(part):
            settings[part] = {**settings[part], "root": None}
    trainer = settings.get("trainer") or {}
    settings["trainer"] = {k: v for k, v in trainer.items() if k not in NOT_LEARNT}
    return {
        "config": config_key({**settings, "files": _detectors(settings)}),
        "data": data,
        "start": "" if start is None else weights_key(start),
    }


def _detectors(settings: Mapping[str, Any]) -> list[str]:
    """Of the files that detectors are (``onnx:FILE``, ``hf:FOLDER``) or read (``file:FILE``)."""
    specs = ((settings.get(part) or {}).get("detector") for part in ("pseudo", "components"))
    places = (Path(local_source(spec.partition(":")[2])) for spec in specs if spec)
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
    plain = (bool, int, float, str, tuple, frozenset, type(None))
    return {
        name: sorted(map(str, value)) if isinstance(value, frozenset) else value
        for name, value in sorted(vars(module).items())
        if isinstance(value, plain) and name != "training"
    }


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
