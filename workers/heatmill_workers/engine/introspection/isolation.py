"""Whether anything but the attention that was seen lets one token reach another, and what does.

Each token attends to itself alone meanwhile. The model runs on two images, the rows of a batch, which differ in one
patch. In every tensor on the way to the logits that has an axis of tokens, or two axes of their grid, the rows may then
differ in one token only. Where others differ, the model attends in a form that is not seen (a softmax in other
operations, a kernel of its own, TorchScript), or mixes its tokens in another way.

Convolutions and pools reach the neighbours of a cell, as in a convolutional trunk. What they put out is replaced by
that of the first image in both rows, with noise in one cell of the second one: what follows is seen on its own.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks

from heatmill_workers.engine.introspection.attention import Capture, to_themselves
from heatmill_workers.engine.introspection.cut import tensors
from heatmill_workers.engine.introspection.graph import multiplies, nodes_below
from heatmill_workers.engine.introspection.locality import noise

ROWS = 2
# Of the patch that differs, as a share of the grid's rows and columns: a maximum may hide the change of one.
PLACES = (0.5, 0.2)
LOCAL = ("conv", "pool", "pad", "interpolate", "upsample", "fold", "grid_sample", "group_norm", "instance_norm")
JOINING = ("cat", "concat", "concatenate", "hstack")
# As a share of the tensor's largest value; a product of matrices rounds the same row differently in another place.
LEAST_CHANGE = 1e-5
# The batch may lie behind the tokens, or behind the three of queries, keys and values.
BATCH_AXES = 3
NOTHING = torch.empty(0)


def mixer_beside(module: nn.Module, image: Tensor, grid: tuple[int, int], count: int) -> str | None:
    """The name of the function that first lets a token reach another while each attends to itself alone, or None.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W), for its size.
        grid: Patches (down, across).
        count: All tokens.

    Raises:
        RuntimeError: The model cannot be differentiated.
    """
    found = (_mixer(module, image, _Isolated(grid, count, place)) for place in PLACES)
    return next((name for name in found if name), None)


def _mixer(module: nn.Module, image: Tensor, seen: "_Isolated") -> str | None:
    with torch.enable_grad():
        # A model may write into its images.
        images = _images(image, seen.grid, seen.place).requires_grad_().clone()
        seen.known.add(images.grad_fn)
        # Nothing is differentiated: without its tensors the graph needs no memory.
        with saved_tensors_hooks(_drop, _drop), seen:
            logits: Tensor = module(images)
    used = set(nodes_below(logits.grad_fn))
    return next((name for name, node in seen.mixers if node in used), None)


class _Isolated(Capture):
    """Lists the calls that make more than one token differ."""

    def __init__(self, grid: tuple[int, int], count: int, place: float) -> None:
        super().__init__()
        self.grid = grid
        self.place = place
        self.sizes = range(grid[0] * grid[1], count + 1)
        self.mixers: list[tuple[str, Node | None]] = []
        self.known: set[Node | None] = set()
        # How many tokens the patch that differs may change.
        self.changing = 1

    def applied(self, attention: Tensor) -> Tensor:
        return to_themselves(attention)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = list(tensors((*args, *(kwargs or {}).values())))
        out = self._observed(
            getattr(func, "__name__", ""), super().__torch_function__(func, types, args, kwargs), given
        )
        # A call may have changed what it was given.
        self.known.update(each.grad_fn for each in (*given, *tensors(out)))
        return out

    def _observed(self, name: str, out: Any, given: list[Tensor]) -> Any:
        mixed = self._mixed(out)
        # What is multiplied by weights of the image's own is attention.
        if mixed and name in JOINING and not self.maps and not multiplies(out.grad_fn):
            mixed = self._mixed_beside_means(out)
        if mixed and isinstance(out, Tensor) and _is_local(name, given) and self._is_spatial(out):
            return _anew(out, self.place)
        self.mixers += [(name, each.grad_fn) for each in mixed if any(self._starts(each, of) for of in given)]
        return out

    def _mixed(self, out: Any) -> list[Tensor]:
        return [each for each in tensors(out) if self._spread(each)]

    def _mixed_beside_means(self, out: Any) -> list[Tensor]:
        """The same where each other token may be one of all patches, such as their mean."""
        before, self.changing = self.changing, len(self.sizes)
        mixed = self._mixed(out)
        if mixed:
            self.changing = before
        return mixed

    def _starts(self, out: Tensor, of: Tensor) -> bool:
        """Whether tokens are mixed here first, or were by something unseen that put out what the call was given.

        A pooled vector may be as wide as there are tokens: it is one of tokens if it comes from such a one.
        """
        if _is_vector(out) and of.numel() != out.numel():
            return False
        spread = self._spread(of)
        is_unseen = of.grad_fn not in self.known and not _is_vector(of)
        return spread is False or (spread is True and is_unseen)

    def _spread(self, out: Tensor) -> bool | None:
        """Whether the rows differ in more than one token, however the tensor is read; None if they do not differ."""
        read = list(self._readings(out))
        left = [self._is_elsewhere(changed) for changed in read]
        if read and all(left):
            return True
        is_one_token = any(bool(changed.any()) and not more for changed, more in zip(read, left, strict=True))
        return False if is_one_token else None

    def _readings(self, out: Tensor) -> Iterator[Tensor]:
        """Where the rows differ, once for each axis that may be the batch; the grid's two axes are made one."""
        if not out.requires_grad or not out.is_floating_point() or not out.numel():
            return
        for axis in range(min(BATCH_AXES, out.ndim)):
            if out.shape[axis] % ROWS:
                continue
            rows = torch.unflatten(out.detach(), axis, (ROWS, -1)).movedim(axis, 0)
            changed = self._without_grid(_changed(rows))
            if any(size in self.sizes for size in changed.shape):
                yield changed

    def _is_elsewhere(self, changed: Tensor) -> bool:
        """Whether other tokens changed, whichever axis is theirs; scores have two axes of tokens."""
        axes = [axis for axis, size in enumerate(changed.shape) if size > 1]
        if not all(bool(self._others(changed, axis).any()) for axis in axes):
            return False
        for axis in (axis for axis in axes if changed.shape[axis] >= self.sizes[0]):
            changed = self._others(changed, axis)
        return bool(changed.any())

    def _others(self, changed: Tensor, axis: int) -> Tensor:
        """The changes without those of the token that changed most."""
        counts = changed.movedim(axis, 0).flatten(1).sum(1) if changed.ndim > 1 else changed.int()
        return changed.index_fill(axis, counts.topk(min(self.changing, len(counts))).indices, value=False)

    def _without_grid(self, changed: Tensor) -> Tensor:
        for axis in range(changed.ndim - 1):
            if tuple(changed.shape[axis : axis + 2]) in (self.grid, self.grid[::-1]):
                return changed.flatten(axis, axis + 1)
        return changed

    def _is_spatial(self, out: Tensor) -> bool:
        """Whether it is a map (N, C, h, w), or (N, C, tokens) whose channels cannot be the tokens."""
        if len(out) == ROWS and out.ndim == 3:
            return out.shape[2] in self.sizes and out.shape[1] not in self.sizes
        return len(out) == ROWS and out.ndim == 4 and tuple(out.shape[2:]) == self.grid


def _images(image: Tensor, grid: tuple[int, int], place: float) -> Tensor:
    """A, and A with B in one patch: (2, 3, H, W)."""
    size = (image.shape[2], image.shape[3])
    first, second = noise((ROWS, 3, *size), image.device)
    down, across = (
        torch.arange(side, device=image.device) * cells // side == int(cells * place)
        for side, cells in zip(size, grid, strict=True)
    )
    images = torch.stack([first, torch.where(down.unsqueeze(1) & across, second, first)])
    return images.to(image.dtype).contiguous(memory_format=torch.channels_last)


def _drop(_tensor: Any) -> Tensor:
    """Keep nothing."""
    return NOTHING


def _is_local(name: str, given: list[Tensor]) -> bool:
    """Whether it reaches neighbours by weights that are the same for every image."""
    return any(each in name for each in LOCAL) and not any(each.requires_grad for each in given[1:])


def _anew(out: Tensor, place: float) -> Tensor:
    """(2, C, ...): the first row twice, with noise in one cell of the second one."""
    cell: Any = (slice(None), *(int(size * place) for size in out.shape[2:]))
    first = out[0]
    change = torch.zeros_like(first)
    scale = first.detach().abs().amax() + 1
    change[cell] = scale * noise((1, len(first)), out.device)[0].to(out.dtype)
    return torch.stack([first, first + change])


def _changed(rows: Tensor) -> Tensor:
    values = rows if rows.dtype == torch.float64 else rows.float()
    tolerance = max(LEAST_CHANGE, 4 * torch.finfo(rows.dtype).eps)
    # Scores that are masked are infinite.
    largest = values[0].abs().nan_to_num(0.0, 0.0, 0.0).amax()
    return (values[1] - values[0]).abs() > tolerance * largest


def _is_vector(out: Tensor) -> bool:
    """Whether each row has one axis of more than one index at most."""
    return sum(size > 1 for size in out.shape) <= 2
