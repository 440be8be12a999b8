"""What a model has computed over the catalogue, kept for as long as it is true."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, searchsorted


class CatalogueCache:
    """Tensors over the catalogue that are computed once and used often, by name.

    Within a training step they are kept until it ends; between evaluations until a parameter changes. At any other
    time nothing is kept: the first backward pass would free the graph that a second one needs.

    Attributes
    ----------
    items : Tensor (m,), int64, or None
        The items that the training step computes, ascending from the padding item; None, as outside of a step, stands
        for all of them. Tensors that are kept have a row for each.
    """

    def __init__(self) -> None:
        self.items: Tensor | None = None
        self._kept: dict[str, Tensor] = {}
        self._version: tuple[int, ...] | None = None
        self._in_step = False

    @contextmanager
    def step(self, items: Tensor | None) -> Iterator[None]:
        """Begin a training step over ``items``; when it ends, all that it computed is dropped."""
        self.forget()
        self.items, self._in_step = items, True
        try:
            yield
        finally:
            self.items, self._in_step = None, False
            self.forget()

    def get(
        self, name: str, compute: Callable[[], Tensor], items: Tensor | None, version: tuple[int, ...] | None
    ) -> Tensor:
        """Give the tensor of a name, computed only if it is not kept.

        Parameters
        ----------
        name : str
        compute : callable
            Without arguments -> the tensor.
        items : Tensor (m,), or None
            What its rows are of; of other items than the step's nothing is kept.
        version : tuple of int, or None
            Versions of the parameters that it depends on while evaluating, where gradients are not wanted; None:
            training.
        """
        if items is not self.items or (version is None and not self._in_step):
            return compute()
        if version != self._version:
            self._kept, self._version = {}, version
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]

    def forget(self) -> None:
        """Drop every tensor that is kept."""
        self._kept, self._version = {}, None

    def row_of(self, items: Tensor) -> Tensor:
        """Where items of any shape, all of them the step's, stand among its rows: of the same shape."""
        return items if self.items is None else searchsorted(self.items, items)
