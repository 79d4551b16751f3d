"""Decoders with their heads: the trunk of a call, and the branches beside it. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from composer.parts import Decoder, Part
from composer.terratorch.arguments import Arguments, Ledger, routed
from composer.terratorch.decoders import Request, decoder_of
from composer.terratorch.heads import head_of

LiveDecoder = Callable[[Any, str, Ledger], Decoder | None]
"""What makes a part of a module that is handed in at a path."""


@frozen
class Branches:
    """Makes them for one call. `outputs` is how many values are to be predicted, and its name in the call."""

    task: str
    outputs: tuple[str, Any] | None
    head: Arguments
    ledger: Ledger
    live: LiveDecoder | None

    def trunk(self, decoder: Any, arguments: Arguments) -> tuple[Part, ...]:
        """The decoder of a call and, unless it ends in a prediction, the head."""
        if self.outputs is not None:
            name, value = self.outputs
            if self.head.get(name, value) != value:
                self.ledger.note(self.head.path(name), f"TerraTorch takes {name}: {value}, which is given beside it.")
        return self._branch(decoder, "decoder", arguments, self.head)

    def auxiliary(self, head: Mapping[str, Any], path: str) -> tuple[Part, ...]:
        """A branch beside the trunk. Its head is made with the arguments of the main one, as in TerraTorch."""
        within = f"{path}.decoder_args"
        arguments, rest = routed("decoder_", None, head["decoder_args"], within)
        own, rest = routed("head_", None, rest, within)
        for name in rest:
            message = f"{name} was passed but not used: an argument begins with decoder_ or head_."
            self.ledger.refuse(f"{within}.{name}", message, f"write decoder_{name}", code="unused")
        parts = self._branch(head["decoder"], f"{path}.decoder", arguments, own)
        for name in own if len(parts) == 2 else ():
            self.ledger.note(
                own.path(name),
                f"TerraTorch makes auxiliary heads with the arguments of the main head, and ignores head_{name}.",
                f"aux: {{{head['name']}: {{head: …}}}} has arguments of its own",
            )
        return parts

    def _branch(self, decoder: Any, path: str, arguments: Arguments, stated: Arguments) -> tuple[Part, ...]:
        """A decoder and perhaps a head, of which the caller says what is `stated`."""
        made = self._decoder(decoder, path, arguments)
        if made is None or not made.includes_head:
            after = head_of(self.task, self._with_outputs(), self.ledger)
            return () if made is None else (made,) if after is None else (made, after)
        known_as = decoder if isinstance(decoder, str) else type(decoder).__name__
        for name in stated:
            message = f"{known_as} includes a head, so there is none for {name}."
            self.ledger.refuse(stated.path(name), message, "leave it out", "unused")
        return (made,)

    def _with_outputs(self) -> Arguments:
        return self.head if self.outputs is None else self.head.placed(*self.outputs, path=self.outputs[0])

    def _decoder(self, decoder: Any, path: str, arguments: Arguments) -> Decoder | None:
        if isinstance(decoder, str):
            classes = None if self.outputs is None else self.outputs[1]
            return decoder_of(Request(decoder, path, arguments, classes), self.ledger)
        if decoder is None or self.live is None:
            self.ledger.refuse(path, f"a decoder is the name of one (got {decoder!r}).", "decoder: FCNDecoder", "type")
            return None
        for name in arguments:
            self.ledger.note(arguments.path(name), f"TerraTorch ignores {name}: the decoder is made already.")
        return self.live(decoder, path, self.ledger)
