"""The one training loop, as it is called. What it does is in :mod:`intarsia.training.fit`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from intarsia.data.problems import Problems
from intarsia.encode.pairs import Pairs
from intarsia.errors import ConfigError
from intarsia.model import Model
from intarsia.training.fit import Run, Validate, listing
from intarsia.training.log import problems_listed
from intarsia.training.memory import patches_dropped, recomputed
from intarsia.training.pseudo import PseudoLinks
from intarsia.training.settings import Settings


class Trainer(Settings):
    """Trains models as its settings say."""

    def fit(
        self,
        model: Model,
        pairs: Pairs,
        out: Path,
        *,
        seed: int = 0,
        resume: bool = False,
        links: PseudoLinks | None = None,
        validate: Validate | None = None,
        problems: Problems | None = None,
        validation_problems: Problems | None = None,
        description: str = "training",
    ) -> Path:
        """Train; leave ``model.safetensors``, ``metrics.jsonl`` and ``checkpoints/`` in ``out``.

        The model ends with the weights that are saved; LoRA's adapters are merged into them.
        ``links`` are found anew by the model as it trains, at their interval. ``problems`` and
        ``validation_problems`` (what ``validate`` adds to) are listed in ``problems.jsonl`` as
        they come.

        Returns:
            The path of the final weights.

        Raises:
            ConfigError: all pairs are of one picture, the checkpoint to resume from is of another
                seed, of other pairs or of another number of processes, or the model or the pairs
                cannot train with ``grad_cache_chunk``, ``layer_decay``, ``flip``,
                ``checkpointing`` or ``patch_dropout``.
            TrainingError: the loss or a gradient is not finite, which is found out at the next line
                of the log, validation or checkpoint.
        """
        problems = Problems() if problems is None else problems
        _require_pictures(pairs)
        with problems_listed(out, problems):
            run = Run(self, model, pairs, out, seed, problems, resume, links)
        if validate is not None and validation_problems is not None:
            validate = listing(validate, out, validation_problems)
        with ExitStack() as saving:
            if self.checkpointing:
                saving.enter_context(recomputed(model.backbone))
            if self.patch_dropout:
                saving.enter_context(patches_dropped(model, self.patch_dropout))
            return run.complete(validate, description)


def _require_pictures(pairs: Pairs) -> None:
    """Pairs of one picture are no negatives of one another."""
    first = pairs.record_id(0)
    if all(pairs.record_id(pair) == first for pair in range(1, len(pairs))):
        raise ConfigError(
            f"all {len(pairs)} pairs are of the picture {first!r}: there are no negatives, so that "
            "nothing is learnt. Choose data with more pictures"
        )
