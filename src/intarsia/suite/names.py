"""Short names: of models in a table, of files."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence


def labels(models: Sequence[str]) -> list[str]:
    """What tells the models apart: their names without the folders that all have in common.

    >>> labels(["runs/clip/seed-0", "runs/filip/seed-0"])
    ['clip', 'filip']
    >>> labels(["runs/clip-0"])
    ['clip-0']
    >>> labels(["runs/clip", "runs/clip/best"])
    ['clip', 'clip/best']
    """
    parts = [[part for part in name.split("/") if part] or [name] for name in models]
    if len(parts) == 1:
        return [parts[0][-1]]
    start = _num_common(parts)
    end = _num_common([part[start:][::-1] for part in parts])
    cut = [part[start : len(part) - end] for part in parts]
    if not all(cut):
        cut = [part[max(start - 1, 0) : len(part) - end] for part in parts]
    return ["/".join(part) for part in cut]


def _num_common(parts: Sequence[Sequence[str]]) -> int:
    """How many leading entries all have in common."""
    same = [len(set(column)) == 1 for column in zip(*parts, strict=False)]
    return [*same, False].index(False)


def file_name(text: str) -> str:
    """
    >>> file_name("retrieval on scenes test[:12]")
    'retrieval_on_scenes_test_12'
    """
    return re.sub(r"[^\w.+-]+", "_", text).strip("_.")


def file_names(texts: Iterable[str]) -> dict[str, str]:
    """A file's name for each text; where several would share one, a hash of the text is added.

    >>> file_names(["runs/clip", "runs filip"])
    {'runs/clip': 'runs_clip', 'runs filip': 'runs_filip'}
    >>> list(file_names(["runs/clip", "runs_Clip"]).values())
    ['runs_clip-c8c961', 'runs_Clip-e41264']
    """
    names = {text: file_name(text) for text in texts}
    used = Counter(name.lower() for name in names.values())
    return {
        text: name if used[name.lower()] == 1 else f"{name}-{_hash(text)}"
        for text, name in names.items()
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
