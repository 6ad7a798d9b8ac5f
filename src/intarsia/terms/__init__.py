"""What similarities are made of, one kind of term a file."""

from intarsia.terms.aligned import Aligned
from intarsia.terms.attended import Attended
from intarsia.terms.base import Side, Term
from intarsia.terms.dot import Dot
from intarsia.terms.mean_max import MeanMax

__all__ = ["Aligned", "Attended", "Dot", "MeanMax", "Side", "Term"]
