"""From a config to a trained model: records, features, start weights, the loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from intarsia.backbones.loading import backbone_options
from intarsia.components.hard_negatives import FalseCaptions, HardNegatives, false_captions
from intarsia.data.problems import Problems
from intarsia.data.readers import GENERATED, read
from intarsia.data.records import Records
from intarsia.encode.cached import CachedPairs
from intarsia.encode.component_pairs import ComponentPairs
from intarsia.encode.components import ComponentSpec
from intarsia.encode.extract import ALONE, Crew
from intarsia.encode.pairs import LivePairs, PairIndex, Pairs
from intarsia.errors import ConfigError, DataError
from intarsia.identity import (
    Keys,
    data_key,
    differences,
    differing,
    keep_run_keys,
    kept_run_keys,
    learnt_from,
    run_keys,
)
from intarsia.model import CONFIG, WEIGHTS, Model, ModelSpec, dump_config, method_class
from intarsia.runtime import atomic
from intarsia.training.checkpoint import LAST
from intarsia.training.checks import alone, check, check_hard_negatives, check_links, check_out
from intarsia.training.fit import Validate
from intarsia.training.log import PROBLEMS, problems_listed
from intarsia.training.loop import Trainer
from intarsia.training.lora import LoraSpec, add_lora
from intarsia.training.pseudo import PseudoLinks, PseudoSpec
from intarsia.training.sampler import check_negatives
from intarsia.types import Record

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSpec:
    """Which records.

    Args:
        name: one of ``intarsia.data.readers.READERS``, such as flickr8k, coco, scenes,
            scenes_places (captions that all name places), file, webdataset, table, image_folder.
        root: where they lie; None = the folder ``name`` in $INTARSIA_DATA.
        split: of the data set; a slice as in ``train[:5500]`` or ``train[-500:]`` takes a part.
        max_bad_fraction: largest share of unreadable records.
    """

    name: str
    root: Path | None = None
    split: str = "train"
    max_bad_fraction: float = 0.01

    def read(self, problems: Problems | None = None) -> Records:
        """
        Raises:
            DataError: there are none.
        """
        records = read(self.name, self.root, self.split, problems)
        if not len(records):
            where = f"{self.name} {self.split}" if self.root is None else str(self.root)
            raise DataError(f"{where}: no records in {self.split!r}: is the slice beyond the last?")
        return records

    def __post_init__(self) -> None:
        if self.name in GENERATED and self.root is not None:
            raise ConfigError(f"scenes are generated, not read from {self.root}: leave --root out")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(
                f"a share of bad records of {self.max_bad_fraction}: choose from 0 to 1"
            )

    def problems(self) -> Problems:
        return Problems(self.max_bad_fraction)


def train(
    spec: ModelSpec,
    data: DataSpec,
    trainer: Trainer,
    out: Path,
    *,
    seed: int = 0,
    init: Path | None = None,
    lora: LoraSpec | None = None,
    pseudo: PseudoSpec | None = None,
    hard_negatives: HardNegatives | None = None,
    resume: bool = False,
    cache: Path = Path("runs/cache"),
    validate: Validate | None = None,
    validation_problems: Problems | None = None,
    config: dict[str, Any] | None = None,
    records: Sequence[Record] | None = None,
    description: str = "training",
) -> Model:
    """Train a model into ``out``, which ``load_model`` then reads; the same model is returned.

    Args:
        spec: what to build.
        data: what to train on.
        trainer: how.
        out: folder for the weights, the config, the log and the checkpoints.
        seed: of the weights, the order of the pairs and dropout.
        init: a trained model's folder to take the backbone (and what fits of the method) from.
        lora: train adapters in the towers instead of their weights.
        pseudo: find out which phrase is which region, for methods that need links and records that
            have none (or whose own are to be replaced).
        hard_negatives: false captions to stand in every batch, made with ``seed``.
        resume: go on from ``out``'s last checkpoint, exactly.
        cache: where states of frozen towers and hard negatives are kept.
        validate: called at the trainer's intervals; its first metric decides which is best.
        validation_problems: the bad records that ``validate`` meets; listed with those of ``data``.
        config: more to keep with the weights than these arguments, or instead of them. A run that
            resumes must have the same, apart from settings that change nothing of what is learnt.
        records: the records of ``data``, where they are read already.
        description: what the progress bar says.
    """
    specs = {"data": data, "lora": lora, "pseudo": pseudo, "hard_negatives": hard_negatives}
    asked: dict[str, Any] = {name: given and asdict(given) for name, given in specs.items()}
    asked |= {"trainer": trainer.as_dict(), "init": init, "seed": seed}
    kept = asked | (config or {})
    check_out(out, resume=resume)
    is_begun = any((out / name).exists() for name in (WEIGHTS, LAST))
    problems = data.problems()
    with ExitStack() as held:
        with problems_listed(out, problems):
            records = data.read(problems) if records is None else Records.of(records)
            model = spec.build(seed)
            if init is not None:
                _start_from(model, init)
            if lora is not None:
                add_lora(model, lora)
            fabric = trainer.launch()
            model.to(fabric.device)
            index = PairIndex(records)
            check(model.train(), trainer, len(index), pseudo=pseudo is not None)
            check_negatives(index.truth, trainer.batch_size * fabric.world_size)
            if pseudo is None:
                check_links(model, records)
            if hard_negatives is not None:
                check_hard_negatives(model)
            with fabric.rank_zero_first():
                if fabric.is_global_zero:
                    held.enter_context(alone(out))
                    if not resume:
                        (out / PROBLEMS).unlink(missing_ok=True)
                    write_config(out, spec, kept, resume=resume)
                    resolved = resolved_config(spec, kept)
                    keys = run_keys(resolved, data_key(records), init)
                    _keep_keys(out, keys, trainer.precision, is_begun)
            links = None
            if pseudo is not None:
                with fabric.rank_zero_first(local=True):
                    links = PseudoLinks(records, pseudo, cache, problems)
                records = links.records
            crew = Crew(fabric.global_rank, fabric.world_size, everybodys)
            false = None
            if hard_negatives is not None:
                false = false_captions(Records.of(records), hard_negatives, seed, cache)
            pairs = make_pairs(model, records, cache, problems, crew, false)
        trainer.fit(
            model,
            pairs,
            out,
            seed=seed,
            resume=resume,
            links=links,
            validate=validate,
            problems=problems,
            validation_problems=validation_problems,
            description=description,
        )
    return model.eval()


def everybodys(own: T) -> list[T]:
    """What each process has, in all of them."""
    if not torch.distributed.is_initialized():
        return [own]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return found


def _start_from(model: Model, init: Path) -> None:
    fresh = model.start_from(init)
    if fresh:
        logger.info("%d tensors are new, not in %s, e.g. %s", len(fresh), init, fresh[0])


def make_pairs(
    model: Model,
    records: Sequence[Record],
    cache: Path,
    problems: Problems,
    crew: Crew = ALONE,
    false: FalseCaptions | None = None,
) -> Pairs:
    """Components where the method matches them, live pairs where a tower trains, cached states
    where both are frozen; what is missing of these is computed by all of ``crew``."""
    needs = model.method.needs
    links, phrases = "links" in needs, "phrases" in needs
    model.cache = cache
    if model.freeze not in ("towers", "backbone"):
        return LivePairs(
            records, model.backbone, problems, links=links, phrases=phrases, false=false
        )
    pairs: ComponentPairs | CachedPairs
    if "components" in needs:
        pairs = ComponentPairs(
            records,
            model.components,
            model.backbone.eval(),
            model.store,
            roles="roles" in needs,
            problems=problems,
            crew=crew,
        )
    else:
        pairs = CachedPairs(
            records,
            model.backbone.eval(),
            model.store,
            patches=model.dense,
            tokens="tokens" in needs,
            ids="ids" in needs,
            links=links,
            phrases=phrases,
            false=false,
            problems=problems,
            crew=crew,
        )
    model.store.close()
    return pairs


def resolved_config(spec: ModelSpec, config: dict[str, Any]) -> dict[str, Any]:
    """What is kept as a run's config: the model's options with the defaults of those that are not
    given, then ``config``."""
    resolved = asdict(spec) | {
        "backbone": backbone_options(spec.backbone["spec"]) | spec.backbone,
        "method": {**spec.method, "init_args": _init_args(spec)},
        "components": asdict(ComponentSpec(**spec.components)),
    }
    return resolved | {"seed": 0} | config


def _init_args(spec: ModelSpec) -> dict[str, Any]:
    parameters = signature(method_class(spec.method["class_path"])).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return defaults | (spec.method.get("init_args") or {})


def write_config(out: Path, spec: ModelSpec, config: dict[str, Any], *, resume: bool) -> None:
    """Keep the resolved config; a resumed run must have the same one, apart from settings that
    have come since and are not set."""
    out.mkdir(parents=True, exist_ok=True)
    text, path = dump_config(resolved_config(spec, config)), out / CONFIG
    if resume and path.exists():
        both = (learnt_from(yaml.safe_load(one)) for one in (path.read_text(), text))
        if found := differences(*both):
            raise ConfigError(
                f"{path} differs from this run's config ({', '.join(found[:3])}"
                f"{', ...' if found[3:] else ''}): resume with the same one, or in another folder"
            )
    with atomic(path) as draft:
        draft.write_text(text)


def _keep_keys(out: Path, keys: Keys, precision: str, is_begun: bool) -> None:
    """Of a run that was begun before there were keys, what it was begun from is not known. Its
    ``precision``, which may be the machine's choice, is kept beside them."""
    kept = kept_run_keys(out)
    if is_begun and not kept:
        return
    if is_begun and (reason := differing(kept, keys)):
        raise ConfigError(f"{out} was begun from {reason}: resume with the same, or choose another")
    keep_run_keys(out, keys | {"precision": precision})
