"""From a spec to a backbone: the one place that knows all kinds."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from intarsia.backbones.base import Backbone
from intarsia.backbones.dual import load_dual
from intarsia.backbones.huggingface import load_huggingface
from intarsia.backbones.openclip import LOCAL, load_openclip
from intarsia.backbones.small import load_scenes_clip, load_scenes_resnet
from intarsia.errors import BackboneError, MissingExtraError, unknown
from intarsia.runtime import models_root

SMALL: dict[str, Callable[..., Backbone]] = {
    "scenes-clip": load_scenes_clip,
    "scenes-resnet": load_scenes_resnet,
}
CONFIGS = HUGGING_FACE, OPEN_CLIP = "config.json", "open_clip_config.json"
FORMS = (
    "openclip:ARCH[:TAG_OR_FILE]",
    "hf:NAME_OR_FOLDER",
    "dual:VISION+TEXT",
    *SMALL,
    "a model folder",
)


def load_backbone(spec: str, *, kept: Path | None = None, **options: Any) -> Backbone:
    """The backbone that ``spec`` names, in float32, in evaluation mode, on the CPU.

    ``openclip:ARCH:PRETRAINED``: an architecture of open_clip with a tag of its weights or a
    local checkpoint file; without PRETRAINED its weights are random.
    ``hf:NAME_OR_FOLDER``: CLIP, SigLIP or SigLIP 2 in Hugging Face format.
    ``dual:VISION+TEXT``: two transformers models; a bare name is first looked for in
    :func:`intarsia.runtime.models_root`, and ``package:NAME`` is the model inside an installed
    Python package.
    ``scenes-clip`` and ``scenes-resnet``: small random CLIPs for generated scenes, with a vision
    transformer or a ResNet.
    A folder with ``config.json`` (Hugging Face) or ``open_clip_config.json`` stands for itself.

    Args:
        spec: as above.
        kept: a folder that :meth:`Backbone.keep` wrote stands for the files of ``spec``; the
            weights are random.
        **options: keyword arguments of the kind's own function: ``load_openclip``,
            ``load_huggingface``, ``load_dual``, ``load_scenes_clip`` or ``load_scenes_resnet``.

    Raises:
        BackboneError: an unknown spec or option, or a model that cannot be read.
        MissingExtraError: the package of ``package:NAME`` is not installed.
    """
    load = _loader(spec) if kept is None else _loader_of_kept(kept, spec)
    valid = _options(load)
    for option in options:
        if option not in valid:
            raise BackboneError(f"{spec}: {unknown('option', option, valid)}")
    backbone = load(**options)
    backbone.has_base = spec not in SMALL
    if kept is not None:
        backbone.name = spec
    return backbone


def backbone_options(spec: str) -> dict[str, Any]:
    """All options of what ``spec`` names, as they are unless one is given."""
    return _options(_loader(spec))


def backbone_places(spec: str) -> list[Path]:
    """The local files and folders that ``spec`` is read from; a name of a hub has none here."""
    kind, _, rest = spec.partition(":")
    if kind == "openclip":
        parts = [rest.partition(":")[2]]
    elif kind == "hf":
        parts = [rest]
    elif kind == "dual":
        parts = [_model_source(name) for name in rest.rpartition("+")[::2]]
    else:
        parts = [spec]
    return [Path(part) for part in parts if part and Path(part).exists()]


def _options(load: Callable[..., Backbone]) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(load).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("name", "weights")
    }


def is_base_folder(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CONFIGS)


def _loader_of_kept(folder: Path, spec: str) -> Callable[..., Backbone]:
    if (folder / "vision").is_dir():
        towers = str(folder / "vision"), str(folder / "text")
        return partial(load_dual, *towers, name=spec, weights=False)
    return partial(_folder_loader(folder), weights=False)


def _folder_loader(folder: Path) -> Callable[..., Backbone]:
    if (folder / OPEN_CLIP).is_file():
        return partial(load_openclip, f"{LOCAL}{folder}")
    return partial(load_huggingface, str(folder))


def _loader(spec: str) -> Callable[..., Backbone]:
    kind, _, rest = spec.partition(":")
    if spec in SMALL:
        return SMALL[spec]
    if kind == "openclip" and rest:
        arch, _, pretrained = rest.partition(":")
        return partial(load_openclip, arch, pretrained or None)
    if kind == "hf" and rest:
        return partial(load_huggingface, _existing(rest))
    if kind == "dual" and "+" in rest:
        vision, _, text = rest.rpartition("+")
        return partial(load_dual, _model_source(vision), _model_source(text), name=spec)
    folder = Path(spec)
    if is_base_folder(folder):
        return _folder_loader(folder)
    if folder.is_dir():
        raise BackboneError(f"folder {spec} has neither {' nor '.join(CONFIGS)}")
    raise BackboneError(unknown("backbone", spec, FORMS))


def _model_source(name: str) -> str:
    """A folder of VISION or TEXT, or a name of the Hugging Face hub."""
    if name.startswith("package:"):
        return str(_package_model(name.removeprefix("package:")))
    local = models_root() / name
    return str(local) if local.is_dir() else _existing(name)


def _existing(source: str) -> str:
    """``source``, unless it can only be a path and is not there (a hub name has one slash)."""
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_like_path and not Path(source).is_dir():
        raise BackboneError(f"there is no model folder {source}")
    return source


def _package_model(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingExtraError(package, "local")
    folder = Path(found.origin).parent / "model"
    if not (folder / "config.json").is_file():
        raise BackboneError(f"package {package} has no model: {folder}/config.json is missing")
    return folder
