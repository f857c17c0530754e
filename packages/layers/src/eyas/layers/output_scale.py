"""How large a block's output is: what should not depend on a model's width (Yang et al., 2022, appendix D.1)."""

# s this rank's part of the sequence, B batch, D hidden

from collections.abc import Callable

import torch
from torch import Tensor, nn


class OutputScale(nn.Module):
    """Observes what one block writes in the training steps of a global batch."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.seen = torch.zeros(2, dtype=torch.float64, device=device)
        """Sum of squares, and number of entries."""

    def forward(self, output_sBD: Tensor) -> None:
        """Takes what the block wrote of a microbatch; of training alone."""
        if torch.is_grad_enabled():
            squares = output_sBD.detach().double().square().sum()
            self.seen += torch.stack([squares, squares.new_tensor(output_sBD.numel())])

    def after_batch(self, total: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The root mean square over the global batch."""
        squares, entries = total(self.seen)
        self.seen = torch.zeros_like(self.seen)
        return {"rms": (squares / entries).sqrt()}
