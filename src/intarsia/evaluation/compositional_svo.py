"""SVO-Probes (Hendricks & Nematzadeh 2021), asked pairwise as in ComAlign.

The picture of the true sentence is compared with that sentence and with the same sentence in which
the subject, verb or object of the negative triplet stands instead. Our reading: the word is that
which the sentence's parse shows in this role, the new one takes its form ("riding" -> "leading"),
and a row whose sentence does not hold the word that its triplet names is skipped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from intarsia.components.english import replaced
from intarsia.components.text import TextParser
from intarsia.components.text_entities import Word
from intarsia.data.files import read_csv
from intarsia.data.problems import Problems
from intarsia.evaluation.compositional_cases import Case, Cases, picture_ids, screened_cases
from intarsia.evaluation.inflection import Role, exchanged
from intarsia.evaluation.metrics import Outcomes
from intarsia.evaluation.negatives import hard_negative_outcomes
from intarsia.runtime import progress

FILE = "svo_probes.csv"
ROLES: dict[str, Role] = {"subj_neg": "subject", "verb_neg": "verb", "obj_neg": "object"}
COLUMNS = ("sentence", "pos_triplet", "neg_triplet", "pos_image_id", "neg_image_id", *ROLES)
TRUTH = {"true": True, "1": True, "false": False, "0": False}


def read_svo(root: Path, images: Path, problems: Problems) -> Cases:
    """The rows of ``svo_probes.csv``; a picture is any file of ``images`` whose stem is its id.

    The pictures have to be fetched from the addresses in the file, some of which are dead: each row
    without its picture is a problem of its own when the cases are scored. Rows with several or no
    negative roles, repeated rows and rows that cannot be rephrased are skipped and counted.

    Raises:
        DataError: The file is missing or lacks a column, too many rows are bad, or none is left.
    """
    path = root / FILE
    return screened_cases(_cases(path, images, problems), problems, path)


def svo_outcomes(cases: Sequence[Case], scores: Tensor) -> dict[str, Outcomes]:
    """``subject``, ``verb``, ``object`` and ``all`` rows weighed alike. Chance is 50."""
    kinds = [case.kind for case in cases]
    found = hard_negative_outcomes(scores[:, 0], scores[:, 1], kinds, picture_ids(cases))
    every = {"all": found["micro"]}
    return {role: found[role] for role in ROLES.values() if role in found} | every


def with_negative_triplet(
    sentence: str, words: Sequence[Word], positive: Sequence[str], negative: Sequence[str]
) -> str | None:
    """The sentence with the words of ``negative`` for those of ``positive``; None if it lacks one.

    Args:
        words: of the sentence, as parsed.
    """
    changes = {}
    for role, old, new in zip(ROLES.values(), positive, negative, strict=True):
        if old == new:
            continue
        change = exchanged(words, role, old, new)
        if change is None or change[0] in changes:
            return None
        changes[change[0]] = change[1]
    return replaced(sentence, changes) if changes else None


def _cases(path: Path, images: Path, problems: Problems) -> Iterator[Case]:
    files = {file.stem: file for file in sorted(images.iterdir())} if images.is_dir() else {}
    rows = list(read_csv(path, COLUMNS, problems))
    sentences = list(dict.fromkeys(row["sentence"] for _, row in rows))
    parsed = TextParser().words(progress(sentences, "parsing sentences"))
    words = dict(zip(sentences, parsed, strict=True))
    used: set[tuple[str, ...]] = set()
    for where, row in rows:
        triplets = [_triplet(row[f"{sign}_triplet"]) for sign in ("pos", "neg")]
        flags = {role: TRUTH.get(row[column].strip().lower()) for column, role in ROLES.items()}
        key = (row["sentence"], row["pos_image_id"], row["neg_triplet"])
        negative = None
        if any(len(triplet) != 3 for triplet in triplets):
            reason = f"must be three words, is {row['pos_triplet']!r} and {row['neg_triplet']!r}"
            problems.add(where, "pos_triplet, neg_triplet", reason)
        elif None in flags.values():
            found = ", ".join(row[column] for column in ROLES)
            problems.add(where, ", ".join(ROLES), f"must be True or False, are {found}")
        elif sum(map(bool, flags.values())) != 1:
            problems.skip("a row that does not have exactly one negative role")
        elif key in used:
            problems.skip("a row that repeats another's sentence, picture and negative triplet")
        else:
            sentence = row["sentence"]
            negative = with_negative_triplet(sentence, words[sentence], *triplets)
            if negative is None:
                problems.skip("a sentence without the word that its triplet names")
        if negative is not None:
            used.add(key)
            role = next(role for role, is_negative in flags.items() if is_negative)
            picture = files.get(row["pos_image_id"], images / f"{row['pos_image_id']}.jpg")
            yield Case(where, picture, (row["sentence"], negative), role)


def _triplet(cell: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in cell.lower().split(","))
