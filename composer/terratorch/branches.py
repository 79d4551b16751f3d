"""Decoders with their heads: the trunk of a call, and the branches beside it. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from composer.parts import Decoder, Part
from composer.terratorch.arguments import Arguments, Diagnostics, route_arguments
from composer.terratorch.decoders import DecoderRequest, build_decoder
from composer.terratorch.heads import build_head

DecoderBuilder = Callable[[Any, str, Diagnostics], Decoder | None]
"""What makes a part of a module that is handed in at a path."""


@frozen
class BranchBuilder:
    """Makes them for one call. `outputs` is how many values are to be predicted, and its name in the call."""

    task: str
    outputs: tuple[str, Any] | None
    head: Arguments
    ledger: Diagnostics
    live: DecoderBuilder | None

    def build_trunk(self, decoder: Any, arguments: Arguments) -> tuple[Part, ...]:
        """The decoder of a call and, unless it ends in a prediction, the head."""
        if self.outputs is not None:
            name, value = self.outputs
            if self.head.get(name, value) != value:
                self.ledger.add_note(
                    self.head.path(name), f"TerraTorch takes {name}: {value}, which is given beside it."
                )
        return self._build_branch(decoder, "decoder", arguments, self.head)

    def auxiliary(self, head: Mapping[str, Any], path: str) -> tuple[Part, ...]:
        """A branch beside the trunk. Its head is made with the arguments of the main one, as in TerraTorch."""
        within = f"{path}.decoder_args"
        arguments, rest = route_arguments("decoder_", None, head["decoder_args"], within)
        own, rest = route_arguments("head_", None, rest, within)
        for name in rest:
            message = f"{name} was passed but not used: an argument begins with decoder_ or head_."
            self.ledger.add_problem(f"{within}.{name}", message, f"write decoder_{name}", code="unused")
        parts = self._build_branch(head["decoder"], f"{path}.decoder", arguments, own)
        for name in own if len(parts) == 2 else ():
            self.ledger.add_note(
                own.path(name),
                f"TerraTorch makes auxiliary heads with the arguments of the main head, and ignores head_{name}.",
                f"aux: {{{head['name']}: {{head: …}}}} has arguments of its own",
            )
        return parts

    def _build_branch(self, decoder: Any, path: str, arguments: Arguments, stated: Arguments) -> tuple[Part, ...]:
        """A decoder and perhaps a head, of which the caller says what is `stated`."""
        made = self._build_decoder(decoder, path, arguments)
        if made is None or not made.includes_head:
            after = build_head(self.task, self._add_outputs(), self.ledger)
            return () if made is None else (made,) if after is None else (made, after)
        known_as = decoder if isinstance(decoder, str) else type(decoder).__name__
        for name in stated:
            message = f"{known_as} includes a head, so there is none for {name}."
            self.ledger.add_problem(stated.path(name), message, "leave it out", "unused")
        return (made,)

    def _add_outputs(self) -> Arguments:
        return self.head if self.outputs is None else self.head.add_with_path(*self.outputs, path=self.outputs[0])

    def _build_decoder(self, decoder: Any, path: str, arguments: Arguments) -> Decoder | None:
        if isinstance(decoder, str):
            classes = None if self.outputs is None else self.outputs[1]
            return build_decoder(DecoderRequest(decoder, path, arguments, classes), self.ledger)
        if decoder is None or self.live is None:
            self.ledger.add_problem(
                path, f"a decoder is the name of one (got {decoder!r}).", "decoder: FCNDecoder", "type"
            )
            return None
        for name in arguments:
            self.ledger.add_note(arguments.path(name), f"TerraTorch ignores {name}: the decoder is made already.")
        return self.live(decoder, path, self.ledger)
