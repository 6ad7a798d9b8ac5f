"""A backbone and a method, together: what is built, trained, saved and loaded."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from intarsia.backbones.base import SIDES, Backbone, Side
from intarsia.backbones.loading import is_base_folder, load_backbone
from intarsia.encode.components import ComponentSpec
from intarsia.encode.encoder import Encoder
from intarsia.errors import ConfigError, unknown
from intarsia.methods import Method
from intarsia.ops.regions import enlarged_crops
from intarsia.runtime import atomic, device_of, randomness_kept, seed_cpu
from intarsia.shipped import shipped
from intarsia.types import Batch, Dense, Embeddings, FalseTexts, Features

Freeze = Literal["none", "image", "text", "towers", "backbone"]
FROZEN: dict[Freeze, tuple[Side, ...]] = {
    "none": (),
    "image": ("image",),
    "text": ("text",),
    "towers": SIDES,
    "backbone": SIDES,
}
WEIGHTS, CONFIG, BACKBONE = "model.safetensors", "config.yaml", "backbone"
PRECISIONS = torch.float32, torch.bfloat16, torch.float16


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model: arguments of ``load_backbone``, a method's class and its arguments.

    Args:
        backbone: keyword arguments of :func:`intarsia.backbones.loading.load_backbone`.
        method: ``{"class_path": ..., "init_args": {...}}``.
        freeze: ``image`` or ``text`` keeps that tower as it is, ``towers`` both, so that only the
            projections and the method train, ``backbone`` the projections, too.
        dense: how the patches of a ViT are taken (METHODS.md section 0).
        components: arguments of :class:`intarsia.encode.components.ComponentSpec`, for methods
            that match components.
    """

    backbone: dict[str, Any]
    method: dict[str, Any] = field(default_factory=lambda: {"class_path": "intarsia.methods.Clip"})
    freeze: Freeze = "none"
    dense: Dense = "value"
    components: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0, *, kept: Path | None = None) -> Model:
        """A fresh model. One seed gives one start, whatever the method.

        Args:
            seed: of all that is random.
            kept: as of ``load_backbone``.
        """
        seed_cpu(seed)
        backbone = load_backbone(**self.backbone, kept=kept)
        seed_cpu(seed)
        build = method_class(self.method["class_path"])
        method = build(backbone.dims, **self.method.get("init_args") or {})
        return Model(
            backbone,
            method,
            freeze=self.freeze,
            dense=self.dense,
            components=ComponentSpec(**self.components),
        )


def method_class(path: str) -> type[Method]:
    """The class that a config names.

    Raises:
        ConfigError: there is none, or it is no method.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"there is no method {path!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"{path!r} is not a method: it must be a subclass of Method")
    return found


class Model(Encoder):
    """What ``load_model`` returns: an :class:`Encoder` that can be trained and saved."""

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        *,
        freeze: Freeze = "none",
        dense: Dense = "value",
        components: ComponentSpec = ComponentSpec(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(backbone, method, dense=dense, components=components)
        if freeze not in FROZEN:
            raise ConfigError(unknown("freeze", freeze, FROZEN))
        if "components" in method.needs and freeze != "backbone":
            raise ConfigError(
                f"{type(method).__name__} works over a frozen backbone: set freeze: backbone"
            )
        if backbone.ends_train and "image" not in FROZEN[freeze]:
            raise ConfigError(
                f"backbone.train_blocks needs a frozen image tower below, but freeze is {freeze}: "
                "set it to towers or image"
            )
        self.freeze = freeze
        self.fresh_towers = True  # a build gives them: they need not be saved when frozen
        self.frozen = FROZEN[freeze]
        if self.frozen:
            backbone.freeze_towers(*self.frozen)
        if freeze == "backbone":
            backbone.requires_grad_(False)

    def features(self, batch: Batch) -> Features:
        if batch.features is not None:
            return batch.features
        states = batch.states
        if states is None:
            if batch.pixels is None or batch.tokens is None:
                raise ConfigError("a batch needs pixels and tokens, or cached states")
            with self._gradients_of("image"):
                states = self.backbone.image_states(batch.pixels, dense=self.dense)
            with self._gradients_of("text"):
                states = states.joined(self.backbone.text_states(batch.tokens))
        features = replace(self.backbone.project(states), links=batch.links, tokens=batch.tokens)
        return replace(features, image_crops=self.crops(batch), text_phrases=self._phrases(batch))

    def _gradients_of(self, side: Side) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(torch.is_grad_enabled() and side not in self.frozen)

    @torch.no_grad()
    def crops(self, batch: Batch) -> Tensor | None:
        """(B,P,D) global vectors of the linked regions, enlarged, for methods that need them; what
        no link uses stays zero. They have no gradient, and are made some pictures at a time."""
        if "crops" not in self.method.needs or batch.links is None:
            return None
        if batch.crops is not None:
            return batch.crops
        if batch.pixels is None:
            raise ConfigError("crops of regions need the pixels: train with freeze: none")
        mask = batch.links.mask
        at_once = max(1, self.backbone.images_at_once // max(1, mask.shape[1]))
        with self.asked():
            parts = map(
                self._crops_of,
                batch.pixels.split(at_once),
                batch.links.boxes.split(at_once),
                mask.split(at_once),
            )
            return torch.cat(list(parts))

    def _crops_of(self, pixels: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
        pixels = self.backbone.transform.normalise(pixels)
        crops = enlarged_crops(pixels, boxes, mask)
        if not len(crops):
            return pixels.new_zeros(*mask.shape, self.backbone.dims.embed)
        vectors = self.backbone.encode_image(crops).require("image_global")
        return vectors.new_zeros(*mask.shape, vectors.shape[1]).masked_scatter_(
            mask[..., None], vectors
        )

    def _phrases(self, batch: Batch) -> Tensor | None:
        """(B,P,D) global vectors of the linked phrases alone; what is no link stays zero."""
        if "phrases" not in self.method.needs or batch.links is None:
            return None
        tokens, mask = batch.links.phrases, batch.links.mask
        if tokens is None:
            raise ConfigError("a batch lacks the tokens of its phrases: give pairs phrases=True")
        blank = torch.zeros(*mask.shape, self.backbone.dims.embed, device=mask.device)
        real = mask.flatten().nonzero()[:, 0]
        if not len(real):
            return blank
        tokens = tokens.map(lambda x: x.flatten(0, 1)[real])
        vectors = self.backbone.encode_text(tokens).require("text_global")
        return blank.masked_scatter(mask[..., None], vectors.float())

    def embed(self, batch: Batch) -> tuple[Embeddings, Embeddings]:
        """What the method makes of the pictures and of the texts of a batch of pairs; false texts
        come behind the true ones, their ids being no picture's of theirs."""
        features = self.features(batch)
        image = replace(self.method.encode_image(features), ids=batch.image_ids)
        text = replace(self.method.encode_text(features), ids=batch.text_ids)
        false = None if batch.false is None else batch.false.packed()
        if false is None or not len(false.ids):
            return image, text
        untrue = replace(self.method.encode_text(self._untrue(false, features)), ids=false.ids)
        return image, Embeddings.concatenate([text, untrue])

    def _untrue(self, false: FalseTexts, pairs: Features) -> Features:
        """The features of F false texts; where the pairs have links, these have none of theirs."""
        states = false.states
        if states is None:
            if false.tokens is None:
                raise ConfigError("false texts need tokens, or cached states")
            with self._gradients_of("text"):
                states = self.backbone.text_states(false.tokens)
        features = replace(self.backbone.project(states), tokens=false.tokens)
        if pairs.links is None:
            return features

        def blank(x: Tensor) -> Tensor:
            return x.new_zeros(len(false.ids), *x.shape[1:])

        phrases = None if pairs.text_phrases is None else blank(pairs.text_phrases)
        links = replace(pairs.links, phrases=None).map(blank)
        return replace(features, links=links, text_phrases=phrases)

    def losses(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        """The losses of embedded pairs; of all ranks' inside ``across_ranks``."""
        with torch.autocast(self.device.type, enabled=False):
            return self.method.loss(image, text)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch of pairs."""
        return self.losses(*self.embed(batch))

    def trained_state(self) -> dict[str, Tensor]:
        """Every tensor that a fresh build does not already give: all but its frozen towers."""
        towers = self.backbone.towers_of(*self.frozen) if self.fresh_towers else []
        skip = self._keys_of(towers)
        return {k: v for k, v in self.state_dict().items() if k not in skip}

    def _built(self, frozen: str) -> tuple[tuple[Side, ...], set[str]] | None:
        """Those of this fresh build's towers, or of the whole ones, that have the fingerprint of
        somebody's frozen ones, and their tensors' names."""
        if not frozen:
            return (), set()
        for backbone in dict.fromkeys((self.backbone, self.backbone.whole())):
            for sides in FROZEN.values():
                if sides and backbone.fingerprint(*sides) == frozen:
                    return sides, self._keys_of(backbone.towers_of(*sides))
        return None

    def _keys_of(self, towers: Sequence[nn.Module]) -> set[str]:
        inside = {id(m) for tower in towers for m in tower.modules()}
        names = tuple(f"{name}." for name, module in self.named_modules() if id(module) in inside)
        return {key for key in self.state_dict() if key.startswith(names)}

    def fingerprint(self) -> str:
        """A hash of the frozen towers that are not saved; empty where all are."""
        left_out = self.frozen and self.fresh_towers
        return self.backbone.fingerprint(*self.frozen) if left_out else ""

    def save(self, path: Path) -> None:
        """Write the trained weights as safetensors, atomically; where they are all that there are,
        beside them what the backbone takes to be built without its base."""
        state = {k: v.detach().cpu().contiguous() for k, v in self.trained_state().items()}
        frozen, kept = self.fingerprint(), path.with_name(BACKBONE)
        if self.backbone.has_base and not frozen and not kept.exists():
            draft = kept.with_name(f".{BACKBONE}.{os.getpid()}")
            self.backbone.keep(draft)
            draft.rename(kept)
        with atomic(path) as draft:
            save_file(state, draft, metadata={"format": "pt", "frozen_towers": frozen})

    def load(self, path: Path) -> None:
        """Read weights written by :meth:`save` into a model of the same spec."""
        frozen, state = _stored(path)
        if frozen and frozen != self.fingerprint():
            raise ConfigError(
                f"{path} was trained on towers with fingerprint {frozen}, but "
                f"{self.backbone.name} here has {self.fingerprint() or 'none that are frozen'}"
            )
        self.fresh_towers = bool(frozen)
        expected = self.trained_state().keys()
        if state.keys() != expected:
            odd = sorted(state.keys() ^ expected)
            raise ConfigError(f"{path} does not fit its config: {len(odd)} tensors, e.g. {odd[:3]}")
        self.load_state_dict(state, strict=False)

    def completed(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Another model's tensors, and under their names here those that inherit from them."""
        inherits = {f"backbone.{a}": f"backbone.{b}" for a, b in self.backbone.inherited().items()}
        return {own: given[of] for own, of in inherits.items() if of in given} | given

    def start_from(self, directory: Path) -> list[str]:
        """Take over a trained model's backbone, and the method's tensors that have the same name
        and shape. Returns the names of this model's tensors that keep their fresh values."""
        directory = shipped(directory)
        if not (directory / WEIGHTS).is_file():
            raise ConfigError(f"{directory} is not a trained model: it has no {WEIGHTS}")
        frozen, given = _stored(directory / WEIGHTS)
        given = self.completed(given)
        built = self._built(frozen)
        if built is None:
            raise ConfigError(
                f"{directory} was trained with frozen towers, whose weights (fingerprint {frozen}) "
                f"are not those of {self.backbone.name} here"
            )
        sides, left_out = built
        self.fresh_towers = bool(sides) and set(self.frozen) <= set(sides)
        own = self.trained_state()
        fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
        fresh = sorted(own.keys() - fits.keys() - left_out)
        if lost := [name for name in fresh if name.startswith("backbone.")]:
            raise ConfigError(f"{directory} has another backbone: no {lost[0]} of this shape in it")
        self.load_state_dict(fits, strict=False)
        return fresh


def _stored(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The fingerprint of the towers that are not in a file of weights, and what is."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return (file.metadata() or {}).get("frozen_towers", ""), tensors


def load_model(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> Model:
    """A trained model, or a base by its name, in evaluation mode; nobody's random numbers change.

    Args:
        source: the folder that ``intarsia train --out FOLDER`` left; ``mini`` (photos and
            English), which comes with the package; or what ``load_backbone`` takes, such as
            ``openclip:ViT-B-32:laion2b_s34b_b79k``: a backbone alone, compared by its global
            vectors.
        device: where to; None = the CPU.
        dtype: of the backbone: float32 (None), bfloat16 or float16, for inference only. The
            method's own layers, and all embeddings, stay float32.
        compile: the image tower by ``torch.compile``, at its first picture: worth a minute's wait
            for thousands of pictures. Needs a C++ compiler, or a GPU.

    Raises:
        ConfigError: no such folder, weights that do not fit their config, another ``dtype``.
        BackboneError: no such base.
    """
    place = None if device is None else device_of(device)
    if dtype not in (None, *PRECISIONS):
        raise ConfigError(unknown("dtype", str(dtype), map(str, PRECISIONS)))
    folder = shipped(source)
    with randomness_kept():
        if _is_run(folder):
            model = _trained(folder)
        else:
            model = ModelSpec({"spec": str(source)}).build()
    model.backbone.to(dtype)
    model.compiled = compile
    return model.to(place).eval()


def config_of(source: str | Path) -> dict[str, Any]:
    """The resolved config of what :func:`load_model` takes."""
    folder = shipped(source)
    if not _is_run(folder):
        return asdict(ModelSpec({"spec": str(source)}))
    config: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_text())
    return config


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run's; one that is neither that nor a base lacks something."""
    return (folder / CONFIG).is_file() or (folder.is_dir() and not is_base_folder(folder))


def _trained(folder: Path) -> Model:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} is not a trained model: it has no {name}")
    spec, kept = read_spec(folder), folder / BACKBONE
    seed = config_of(folder).get("seed", 0)
    model = spec.build(seed, kept=kept if kept.is_dir() else None)
    model.load(folder / WEIGHTS)
    return model


def read_spec(directory: Path) -> ModelSpec:
    config = config_of(directory)
    try:
        return ModelSpec(
            **{item.name: config[item.name] for item in fields(ModelSpec) if item.name in config}
        )
    except TypeError as error:
        raise ConfigError(f"{directory / CONFIG} is not the config of a run: {error}") from error


def dump_config(config: dict[str, Any]) -> str:
    """A resolved config as YAML; plain data only."""
    return yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False)
