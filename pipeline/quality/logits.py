"""Logits of some positions at a time: never those of a whole window, which may take gigabytes.

A window goes through the model's body once. Its head then sees a few positions at a time, by the
model's own forward, whose body gives back what was kept: so scaling, softcapping and whatever else an
architecture does behind its body is done by the architecture itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.quality.windows import Window
from pipeline.units import MIB

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LOGITS_BYTES = 2 * MIB  # of one chunk on a CPU; more beside a large model: few rows make slow products
_SHARE = 1024
CUDA_LOGITS_BYTES = 256 * MIB  # small matrices would leave a GPU idle
_CLOSE = 0.02  # relative distance of equal logits, rounded to bfloat16 in another order


class Head:
    """A model in two halves: `read` what windows say, then `logits` of some of their positions.

    is_bounded: whether the halves were found to make the same as the whole model; if not, `read` keeps
    all logits of a batch.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._output: Any = None
        nbytes = sum(each.numel() * each.element_size() for each in model.parameters())
        self._limit = max(LOGITS_BYTES, nbytes // _SHARE)
        self.is_bounded = self._fits()

    def read(self, windows: Sequence[Window]) -> torch.Tensor:
        """What the head needs of every position that predicts a target, window after window.

        Windows are padded at their end, which no position before it sees.
        """
        import torch

        width = max(len(window.inputs) for window in windows)
        padded = [[*window.inputs, *[0] * (width - len(window.inputs))] for window in windows]
        with torch.inference_mode():
            states = self._states(torch.tensor(padded, device=self._model.device))
            kept = [
                row[len(window.inputs) - len(window.targets) : len(window.inputs)]
                for row, window in zip(states, windows, strict=True)
            ]
            return torch.cat(kept)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """The logits of these positions, in float32: one row for each row of what `read` gave."""
        import torch

        with torch.inference_mode():
            return self._logits(states).float() if self.is_bounded else states.float()

    def chunks(self, states: torch.Tensor) -> Iterator[slice]:
        """Pieces of `states` whose logits, as float32, take little beside the model."""
        limit = self._limit if states.device.type == "cpu" else CUDA_LOGITS_BYTES
        rows = max(1, limit // (4 * self.width))
        return (slice(at, at + rows) for at in range(0, len(states), rows))

    @property
    def width(self) -> int:
        """Logits of a position."""
        rows: int = self._model.config.get_text_config().vocab_size
        return rows

    def _states(self, ids: torch.Tensor) -> torch.Tensor:
        if not self.is_bounded:
            whole: torch.Tensor = self._model(input_ids=ids, use_cache=False).logits
            return whole
        return self._body_states(ids)

    def _body_states(self, ids: torch.Tensor) -> torch.Tensor:
        """The body's last hidden states; the head sees one position of them, to be quick."""
        kept: list[torch.Tensor] = []

        def forward(*args: Any, **options: Any) -> Any:
            output = original(*args, **options)
            kept.append(output.last_hidden_state)
            output.last_hidden_state = output.last_hidden_state[:1, :1]
            self._output = output
            return output

        with self._body_replaced(forward) as original:
            self._model(input_ids=ids, use_cache=False)
        return kept[0]

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        import torch

        def forward(*args: Any, **options: Any) -> Any:
            self._output.last_hidden_state = states[None]
            return self._output

        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        with self._body_replaced(forward):
            found: torch.Tensor = self._model(input_ids=ids, use_cache=False).logits[0]
        return found

    @contextmanager
    def _body_replaced(self, forward: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
        """While this lasts the model's body does what `forward` does; gives what it did before."""
        body = getattr(self._model, self._model.base_model_prefix)
        original: Callable[..., Any] = body.forward
        body.forward = forward
        try:
            yield original
        finally:
            del body.forward  # the class's own is seen again

    def _fits(self) -> bool:
        """Whether body and head, one after the other, make what the whole model makes."""
        import torch

        ids = torch.arange(4, device=self._model.device)[None]
        with torch.inference_mode():
            whole = self._model(input_ids=ids, use_cache=False).logits[0].float()
            try:
                states = self._body_states(ids)[0]
                parts = torch.cat([self._logits(states[:1]), self._logits(states[1:])]).float()
            except (AttributeError, TypeError, IndexError, RuntimeError):
                return False
        if parts.shape != whole.shape:
            return False
        distance = (parts - whole).nan_to_num().norm()
        return bool(distance <= _CLOSE * whole.nan_to_num().norm() + 1e-6)
