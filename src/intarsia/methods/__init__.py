"""One file a method; a subclass of :class:`Method` is all there is to add."""

from intarsia.methods.base import Method
from intarsia.methods.clip import Clip
from intarsia.methods.comalign import ComAlign
from intarsia.methods.filip import Filip
from intarsia.methods.flair import Flair
from intarsia.methods.harmoclip import HarmoClip
from intarsia.methods.registers import Registers

__all__ = ["Clip", "ComAlign", "Filip", "Flair", "HarmoClip", "Method", "Registers"]
