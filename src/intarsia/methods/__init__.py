"""One file a method; a subclass of :class:`Method` is all there is to add."""

from intarsia.methods.base import Method
from intarsia.methods.clip import Clip
from intarsia.methods.registers import Registers

__all__ = ["Clip", "Method", "Registers"]
