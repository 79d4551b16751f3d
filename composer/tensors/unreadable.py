"""What is wrong with a file of tensors. No torch here, nor where pickles are read."""

from __future__ import annotations

SAVE_AGAIN_HINT = "save or copy it again"
SAVE_STATE_DICT_HINT = "save the state dict: torch.save(model.state_dict(), file)"


class UnreadableError(ValueError):
    """What is wrong with a file, as what is said after its name: `is damaged (it is cut off)`. `repair` mends it."""

    def __init__(self, message: str, repair: str = SAVE_AGAIN_HINT) -> None:
        super().__init__(message)
        self.repair = repair
