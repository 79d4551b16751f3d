"""Read the tensors of weights files, without running anything in them, and match them with those of a network."""

from __future__ import annotations

SAVE_AGAIN_HINT = "save or copy it again"
CONVERT_HINT = "convert it to floating-point numbers, and save it again"
SAVE_STATE_DICT_HINT = "save the state dict: torch.save(model.state_dict(), file)"


class UnreadableError(ValueError):
    """Report what is wrong with a weights file, as the words after its name; `fix` is the next step."""

    def __init__(self, message: str, fix: str = SAVE_AGAIN_HINT) -> None:
        super().__init__(message)
        self.fix = fix
