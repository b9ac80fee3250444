"""The attention of a transformer's layers, per call and without hooks.

Fused kernels keep no attention, and the switches that turn them off belong to the model or to the process. A
`TorchFunctionMode` instead sees the calls of the current thread and computes fused attention in plain operations:

- `scaled_dot_product_attention`, of timm and transformers,
- `multi_head_attention_forward`, which torchvision's `nn.MultiheadAttention` calls. While a mode is active torch takes
  none of its fast paths past it.

An implementation that calls `softmax` itself shows its attention in what that puts out, if it is multiplied with the
values as it is, and once: heads that are mixed or gated in between attend otherwise, and so does a transposed map.
Every map that is kept is on the way to the logits, so that `autograd.grad` reaches it.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

MULTI_HEAD = signature(functional.multi_head_attention_forward)
PRODUCTS = {"matmul", "__matmul__", "bmm"}
# What no classifier of images uses. Such a call is left to torch, and counts as attention that cannot be seen.
NO_SIMPLE_MULTI_HEAD = ("bias_k", "bias_v", "key_padding_mask", "attn_mask", "static_k", "static_v")


class Capture(TorchFunctionMode):
    """Lists the attention of one forward pass.

    Args:
        differentiable: Let the graph start at the first map, in a model whose parameters are frozen.

    Attributes:
        maps: (N, heads, queries, keys) of each call in order; None for attention of another form.
        outputs: What of each call is in the graph, in a pass that is differentiated: its map, or else its result.
        grids: (rows, columns) of the spatial maps that there may have been before the first attention.
    """

    def __init__(self, *, differentiable: bool = False) -> None:
        super().__init__()
        self.differentiable = differentiable
        self.maps: list[Tensor | None] = []
        self.outputs: list[Tensor] = []
        self.grids: list[tuple[int, int]] = []
        # As it is kept, and as the model goes on with it.
        self._unconfirmed: tuple[Tensor, Tensor] | None = None
        self._confirmed: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._scaled_dot_product(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._multi_head(args, kwargs)
        name = getattr(func, "__name__", "")
        if name in PRODUCTS and len(args) > 1:
            self._confirm(args[0], args[1])
        elif name == "einsum" and (product := as_product(*args)) is not None:
            self._confirm(*product)
        out = func(*args, **kwargs)
        return self._looked_at(name, out) if isinstance(out, Tensor) else out

    def _looked_at(self, name: str, out: Tensor) -> Tensor:
        # A softmax over classes is 2-D.
        if name == "softmax" and out.ndim > 2:
            # One head may have no axis: the model goes on with what is seen, without one again.
            has_heads = out.ndim > 3
            seen = self._differentiable(self.applied(out if has_heads else out.unsqueeze(1)))
            out = seen if has_heads else seen.squeeze(1)
            self._keep(None, out)
            self._unconfirmed = seen, out
        elif out.ndim == 4 and not self.maps:
            self.grids += [(out.shape[2], out.shape[3]), (out.shape[1], out.shape[2])]
        return out

    def applied(self, attention: Tensor) -> Tensor:
        """The attention that the model goes on with."""
        return attention

    def see(self, attention: Tensor, values: Tensor) -> None:
        """Called with each attention that can be seen, and the values (N, heads, keys, width) that it weights."""

    def _confirm(self, factor: object, values: Tensor) -> None:
        """What a softmax put out is attention once it is multiplied with the values; dropout makes an alias of it."""
        if not isinstance(factor, Tensor) or factor.ndim not in {3, 4}:
            return
        if self._confirmed is not None and factor.data_ptr() == self._confirmed.data_ptr():
            # What attends twice attends by the square of what is seen.
            self.maps[-1] = self._confirmed = None
        if self._unconfirmed is None:
            return
        seen, known = self._unconfirmed
        if _are_the_same(factor, known):
            self.maps[-1], self._unconfirmed, self._confirmed = seen, None, known
            self.see(seen, values if factor.ndim == 4 else values.unsqueeze(1))

    def _keep(self, attention: Tensor | None, out: Tensor) -> Tensor:
        self.maps.append(attention)
        if self.differentiable:
            self.outputs.append(out if attention is None else attention)
        self._unconfirmed = self._confirmed = None
        return out

    def _differentiable(self, attention: Tensor) -> Tensor:
        if self.differentiable and not attention.requires_grad:
            attention.requires_grad_()
        return attention

    def _scaled_dot_product(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        names = ("dropout_p", "is_causal", "scale", "enable_gqa")
        kwargs |= dict(zip(names, args, strict=False))
        if query.ndim != 4 or kwargs.get("dropout_p"):
            out = functional.scaled_dot_product_attention(query, key, value, attn_mask, **kwargs)
            return self._keep(None, out)
        if kwargs.get("enable_gqa"):
            # Several heads of queries share one of keys and values.
            key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
        if kwargs.get("is_causal"):
            attn_mask = query.new_ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        return self._weighted(_attention(query, key, attn_mask, kwargs.get("scale")), value)

    def _weighted(self, attention: Tensor, value: Tensor) -> Tensor:
        attention = self.applied(attention)
        kept = self._keep(self._differentiable(attention), attention)
        self.see(kept, value)
        return kept @ value

    def _multi_head(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        bound = MULTI_HEAD.bind(*args, **kwargs)
        bound.apply_defaults()
        call = bound.arguments
        if not _is_simple(call):
            out, weights = functional.multi_head_attention_forward(*args, **kwargs)
            self._keep(None, out)
            return out, weights
        query, key, value = (
            _heads(functional.linear(call[name], weight, bias), call["num_heads"])
            for name, weight, bias in zip(("query", "key", "value"), *_projections(call), strict=True)
        )
        attention = _attention(query, key, None, None)
        out = self._weighted(attention, value).permute(2, 0, 1, 3).flatten(2)
        return functional.linear(out, call["out_proj_weight"], call["out_proj_bias"]), _returned(attention, call)


def capture(module: nn.Module, images: Tensor, *, differentiable: bool = False) -> tuple[Tensor, Capture]:
    """Logits (N, K), and what was seen on the way to them. For gradients call it under `torch.enable_grad()`."""
    with Capture(differentiable=differentiable) as seen:
        logits: Tensor = module(images)
    return logits, seen


def as_product(equation: object, *operands: Any) -> tuple[Tensor, Tensor] | None:
    """The factors (..., queries, keys) and (..., keys, width) of the product of matrices that an `einsum` is, or None.

    Args:
        equation: Its first argument.
        *operands: The others, each by itself or all in a list.
    """
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    if not isinstance(equation, str) or len(given) != 2 or given[0].ndim < 3:
        return None
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    first, _, second = inputs.partition(",")
    rest = "ABCDEF"[: given[0].ndim - len(first.replace("...", ""))]
    first, second, result = (each.replace("...", rest) for each in (first, second, result))
    if len(first) < 3 or not arrow:
        return None
    (*others, queries, keys), widths = list(first), set(second) - set(first)
    if len(widths) != 1 or keys not in second or queries in second:
        return None
    (width,) = widths
    if sorted(result) != sorted([*others, queries, width]) or len(set(first)) < len(first):
        return None
    shared = [axis for axis in others if axis in second]
    values = given[1].permute([second.index(axis) for axis in (*shared, keys, width)])
    # One set of values may serve all heads.
    for place, axis in enumerate(others):
        values = values if axis in second else values.unsqueeze(place)
    return given[0], values


def to_themselves(attention: Tensor) -> Tensor:
    """Attention of the same shape by which each token attends to itself alone, if it is between the same tokens."""
    if attention.shape[-1] != attention.shape[-2]:
        return attention
    each_itself = torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    return each_itself.expand_as(attention).contiguous()


def _are_the_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors show the same memory in the same order; a square may be transposed."""
    strides = [
        [stride for stride, size in zip(each.stride(), each.shape, strict=True) if size > 1] for each in (one, other)
    ]
    return (one.shape, one.data_ptr(), strides[0]) == (other.shape, other.data_ptr(), strides[1])


def _attention(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """softmax(Q K^T * scale + mask), (N, heads, queries, keys)."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def _is_simple(call: dict[str, Any]) -> bool:
    given = [name for name in NO_SIMPLE_MULTI_HEAD if call[name] is not None]
    is_packed = call["in_proj_weight"] is not None and not call["use_separate_proj_weight"]
    flags = call["add_zero_attn"] or call["is_causal"] or (call["training"] and call["dropout_p"] > 0)
    return is_packed and not given and not flags and call["query"].ndim == 3


def _projections(call: dict[str, Any]) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    bias = call["in_proj_bias"]
    return call["in_proj_weight"].chunk(3), (None, None, None) if bias is None else bias.chunk(3)


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """(tokens, N, width) to (N, heads, tokens, width / heads)."""
    return tokens.reshape(*tokens.shape[:2], heads, -1).permute(1, 2, 0, 3)


def _returned(attention: Tensor, call: dict[str, Any]) -> Tensor | None:
    if not call["need_weights"]:
        return None
    return attention.mean(1) if call["average_attn_weights"] else attention
