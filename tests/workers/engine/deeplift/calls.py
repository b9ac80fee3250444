"""One table for the whole register: how each function that has a rule of DeepLIFT is called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Given:
    """An argument that depends on the image: random numbers of a shape, scaled and shifted."""

    shape: tuple[int, ...] = (3, 4, 6, 6)
    scale: float = 1.0
    shift: float = 0.0
    positive: bool = False

    def draw(self, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Values from about -2 to 2, or from 0.1 to 2."""
        drawn = torch.randn(self.shape, generator=generator, dtype=torch.float64).div(2).tanh() * 2
        return (self.scale * (drawn.abs() + 0.1 if self.positive else drawn) + self.shift).to(dtype)


@dataclass(frozen=True)
class Call:
    """Arguments of one call; those of `Given` become pairs.

    Args:
        smooth: Its multipliers tend to its derivatives, which autograd knows.
    """

    args: tuple[Any, ...]
    options: dict[str, Any]
    smooth: bool = True


def call(*args: Any, smooth: bool = True, **options: Any) -> Call:
    """A call with these arguments."""
    return Call(args, options, smooth)


def constant(*shape: int) -> Tensor:
    """Numbers that do not depend on the image, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


X, ROWS, POSITIVE = Given(), Given((3, 5, 4)), Given(positive=True)
SQUARE, MATRIX, VECTOR = Given((3, 4, 4)), Given((4, 4)), Given((4,))
UNIT = Given((3, 4, 6, 6), scale=0.3)
BOTH = (call(X, constant(6)), call(X, Given((6, 6))), call(constant(3, 4, 6, 6), Given((6,))))
MASK, INDEX = constant(6, 6) > 0, torch.tensor([0, 2, 1])

CALLS: dict[str, tuple[Call, ...]] = {}


def calls(names: str, *entries: Call) -> None:
    """Enter the calls of some functions."""
    for name in names.split():
        CALLS[name] = entries


calls("shape ndim device dtype layout is_cuda is_cpu is_sparse is_quantized is_nested is_meta is_leaf", call(X))
calls("requires_grad grad_fn size dim is_floating_point is_complex numel", call(X))
calls("element_size stride storage_offset is_contiguous get_device data_ptr __len__", call(X))
calls("zeros_like ones_like", call(X))
calls("empty_like", call(X))
calls("full_like", call(X, 2.0))
calls("new_zeros new_ones new_empty", call(X, (3, 2)))
calls("new_full", call(X, (3, 2), 2.0))
calls("new_tensor", call(X, [1.0, 2.0]))

calls("neg negative positive clone contiguous deg2rad rad2deg", call(X))
calls("float double detach data", call(X, smooth=False))
calls("pad", call(X, (1, 2)), call(X, (1, 1, 1, 1), mode="reflect"), call(X, (1, 2, 0, 1), value=0.5))
calls("avg_pool1d", call(ROWS, 2))
calls("avg_pool2d", call(X, 2), call(X, 3, 2, 1))
calls("avg_pool3d", call(X, (2, 2, 2)))
calls("adaptive_avg_pool1d", call(ROWS, 2))
calls("adaptive_avg_pool2d", call(X, 1), call(X, (2, 3)))
calls("adaptive_avg_pool3d", call(X, (2, 3, 1)))
calls("mean sum", call(X, 1), call(X, (2, 3), keepdim=True), call(X))
calls("cumsum", call(X, 1))
calls("diff", call(X))
calls("trace diag", call(MATRIX))
calls("diag_embed", call(X))
calls("take", call(X, INDEX))
calls("masked_select", call(X, MASK))
calls("tril triu", call(X))
calls("view reshape", call(X, (3, 4, 36)))
calls("flatten", call(X, 2))
calls("unflatten", call(X, 1, (2, 2)))
calls("ravel", call(X))
calls("permute", call(X, (0, 2, 3, 1)))
calls("transpose swapaxes swapdims movedim moveaxis", call(X, 1, 2))
calls("t T", call(MATRIX))
calls("mT H mH adjoint", call(MATRIX))
calls("squeeze", call(Given((3, 1, 4)), 1))
calls("unsqueeze", call(X, 1))
calls("expand broadcast_to", call(Given((3, 1, 4)), (3, 5, 4)))
calls("repeat tile", call(X, (1, 2, 1, 1)))
calls("repeat_interleave", call(X, 2, 1))
calls("__getitem__", call(X, (slice(None), 1)), call(X, (slice(None), INDEX)), call(X, (..., MASK)))
calls("select", call(X, 1, 2))
calls("narrow", call(X, 1, 1, 2))
calls("index_select", call(X, 1, INDEX))
calls("gather", call(X, 1, torch.zeros(3, 2, 6, 6, dtype=torch.int64)))
calls("take_along_dim", call(X, torch.zeros(3, 2, 6, 6, dtype=torch.int64), 1))
calls("roll", call(X, 1, 1))
calls("flip", call(X, (1, 2)))
calls("fliplr flipud", call(X))
calls("rot90", call(X, 1, (2, 3)))
calls("diagonal", call(X, 0, 2, 3))
calls("chunk tensor_split", call(X, 2, 1))
calls("split unsafe_split", call(X, 2, 1))
calls("unsafe_chunk", call(X, 2, 1))
calls("split_with_sizes", call(X, [1, 3], 1))
calls("hsplit vsplit dsplit", call(X, [1, 2]))
calls("unbind", call(X, 1))
calls("unfold", call(X, 2, 1), call(X, 2, 3, 1))
calls("fold", call(Given((3, 8, 9)), (4, 4), 2))
calls("interpolate", call(X, scale_factor=2), call(X, (4, 9), mode="bicubic", antialias=True))
calls("grid_sample", call(X, constant(3, 2, 2, 2).tanh(), align_corners=False))
calls("affine_grid", call(Given((3, 2, 3)), (3, 4, 6, 6), align_corners=False))
calls("pixel_shuffle pixel_unshuffle", call(X, 2))
calls("channel_shuffle", call(X, 2))
calls("index_fill", call(X, 1, INDEX, 0.5))
calls("add subtract sub", *BOTH)
calls("__rsub__ rsub", call(X, constant(6)), call(X, 1.0), call(X, Given((6, 6))))
calls("cat concat concatenate hstack vstack dstack column_stack row_stack", call((X, constant(3, 4, 6, 6), X)))
calls("stack", call((X, constant(3, 4, 6, 6), X), 1))
calls("index_add index_copy", call(X, 1, INDEX, Given((3, 3, 6, 6))), call(X, 1, INDEX, constant(3, 3, 6, 6)))
calls("scatter_add", call(MATRIX, 1, torch.tensor([[0, 1, 1, 2]]), Given((1, 4))))
calls("scatter", call(MATRIX, 1, torch.tensor([[0, 1, 3, 2]]), Given((1, 4))))
calls("slice_scatter", call(X, Given((3, 2, 6, 6)), 1, 1, 3))
calls("select_scatter", call(X, Given((3, 6, 6)), 1, 2))
calls("diagonal_scatter", call(MATRIX, VECTOR))
calls("masked_scatter", call(MATRIX, torch.eye(4) > 0, VECTOR))
calls("view_as reshape_as expand_as type_as to", call(X, constant(3, 4, 6, 6)))
calls("copy", call(X, Given()), call(X, Given((6,))), call(X, constant(6)))
calls("fill", call(X, 0.5), call(X, Given(())))
calls("zero", call(X))
calls("dropout dropout1d dropout2d dropout3d", call(X, 0.5, False))
calls("alpha_dropout feature_alpha_dropout", call(X, 0.5, False))
calls("dropout1d", call(ROWS, 0.5, False))

COMPLEX_ROWS = "fft_fft fft_fft2 fft_fftn fft_ifft fft_ifft2 fft_ifftn fft_rfft fft_rfft2 fft_rfftn fft_ihfft"
calls(COMPLEX_ROWS, call(X))
calls("fft_irfft fft_irfft2 fft_irfftn fft_hfft fft_fftshift fft_ifftshift", call(X))
calls("fft_irfft2", call(X, (6, 6)))
calls("complex", call(X, Given()))
calls("real conj resolve_conj resolve_neg", call(X))
calls("stft", call(Given((3, 32)), 8, return_complex=True, window=torch.ones(8)))

calls("relu relu6 hardtanh hardshrink nan_to_num abs absolute leaky_relu rrelu", call(X))
calls("clamp_min clamp_max", call(X, 0.3), call(X, constant(6)))
calls(
    "clamp clip",
    call(X, -0.3, 0.4),
    call(X, max=0.5),
    call(X, Given((6,)), constant(6) + 2),
    call(X, None, Given((6, 6))),
)
calls("threshold _threshold", call(X, 0.1, 0.0), call(X, -0.2, 5.0))
calls("leaky_relu", call(X), call(X, 0.3))
calls("prelu", call(X, constant(4)), call(X, constant(1)), call(Given((3, 4)), constant(4)))
calls("sign sgn floor ceil trunc fix round frac", call(X))
calls("maximum fmax minimum fmin", *BOTH)

ANYWHERE = "gelu silu sigmoid tanh hardswish hardsigmoid elu selu celu softplus softshrink mish log_sigmoid softsign"
calls(ANYWHERE, call(X), call(Given(scale=8)))
calls("tanhshrink exp exp2 expm1 square erf erfc sin cos sinh cosh atan asinh arctan arcsinh sinc", call(X))
calls("special_expit special_exp2 special_expm1 special_erf special_erfc special_sinc special_ndtr", call(X))
calls("special_log_ndtr", call(X))
calls("tan asin acos atanh arcsin arccos arctanh", call(UNIT))
calls("log log2 log10 log1p sqrt special_log1p lgamma special_gammaln", call(POSITIVE))
calls("acosh arccosh", call(Given(positive=True, shift=1)))
calls("logit special_logit", call(Given(scale=0.2, shift=0.5)))
calls("rsqrt reciprocal", call(POSITIVE))
calls("hypot atan2 arctan2 logaddexp logaddexp2", *BOTH)
calls("xlogy special_xlogy special_xlog1py", call(X, POSITIVE), call(X, 2.0), call(2.0, POSITIVE))
calls(
    "pow float_power",
    call(X, 2),
    call(POSITIVE, 1 / 3),
    call(POSITIVE, constant(6)),
    call(POSITIVE, Given((6,))),
    call(constant(6).abs(), X),
)
calls("__rpow__", call(X, 2.0))

COMPARED = "gt greater ge greater_equal lt less le less_equal eq ne not_equal"
calls(COMPARED, *(Call(each.args, {}, smooth=False) for each in (call(X, 0.3), *BOTH)))
calls("__eq__", call(X, 0.3, smooth=False), call(X, constant(6), smooth=False), call(X, X, smooth=False))
calls("where", call(MASK, X, 0.0), call(MASK, 0.5, X), call(MASK, X, Given()))
calls("masked_fill", call(X, MASK, 0.5))
calls("__setitem__", call(X, (slice(None), 1), 0.5), call(X, (slice(None), 1), Given((3, 6, 6))))

calls("mul multiply div divide true_divide", *BOTH)
calls("__rdiv__", call(POSITIVE, 2.0), call(POSITIVE, constant(6)))
calls("div divide true_divide", call(X, constant(6)), call(X, POSITIVE), call(constant(6), POSITIVE))
calls("matmul linalg_matmul", call(SQUARE, SQUARE), call(SQUARE, constant(4, 4)), call(constant(4, 4), SQUARE))
calls("__rmatmul__", call(SQUARE, SQUARE), call(SQUARE, constant(4, 4)))
calls("bmm", call(SQUARE, SQUARE), call(SQUARE, constant(3, 4, 4)))
calls("mm kron", call(MATRIX, MATRIX), call(constant(4, 4), MATRIX))
calls("mv", call(MATRIX, VECTOR))
calls("dot outer ger", call(VECTOR, VECTOR), call(VECTOR, constant(4)))
calls("inner", call(SQUARE, VECTOR))
calls("tensordot", call(SQUARE, MATRIX, dims=([2], [0])), call(SQUARE, MATRIX, 1))
calls("linalg_vecdot", call(SQUARE, SQUARE), call(SQUARE, SQUARE, dim=1))
calls("cross linalg_cross", call(Given((4, 3)), Given((4, 3)), dim=1), call(Given((4, 3)), constant(4, 3), dim=1))
calls("linalg_multi_dot", call(MATRIX, MATRIX, constant(4, 4)))
calls("linalg_multi_dot", call((MATRIX, MATRIX, constant(4, 4))))
calls(
    "einsum",
    call("nij,njk->nik", SQUARE, SQUARE),
    call("nii->ni", SQUARE),
    call("nij,jk,nkl->nil", SQUARE, constant(4, 4), SQUARE),
)
calls("bilinear", call(Given((3, 4)), Given((3, 5)), constant(2, 4, 5), constant(2)))
calls("prod", call(X, 1), call(X, -1, keepdim=True), call(ROWS, 1))
calls("addmm", call(MATRIX, MATRIX, MATRIX, beta=0.5, alpha=2.0), call(constant(4), MATRIX, constant(4, 4)))
calls("baddbmm", call(SQUARE, SQUARE, SQUARE, beta=0.5, alpha=2.0), call(constant(4, 4), SQUARE, SQUARE))
calls("addbmm", call(MATRIX, SQUARE, SQUARE), call(constant(4, 4), SQUARE, constant(3, 4, 4), beta=0.3))
calls("addmv", call(VECTOR, MATRIX, VECTOR))
calls("addr", call(MATRIX, VECTOR, VECTOR, alpha=0.5))
calls("addcmul", call(X, X, Given((6,)), value=0.5), call(X, X, constant(6)))
calls("addcdiv", call(X, X, POSITIVE, value=0.5), call(X, constant(6), POSITIVE))
calls("lerp", call(X, Given(), 0.3), call(X, Given(), UNIT), call(X, constant(6), constant(6)))
calls("linear", call(X, constant(5, 6), constant(5)), call(constant(3, 6), Given((5, 6)), Given((5,))))
calls("conv1d", call(ROWS, constant(6, 5, 3), constant(6)), call(ROWS, Given((6, 5, 3)), Given((6,)), padding="same"))
calls("conv2d", call(X, constant(6, 4, 3, 3), constant(6), 2, 1), call(X, Given((6, 4, 3, 3)), padding="same"))
calls("conv3d", call(Given((2, 3, 4, 4, 4)), constant(2, 3, 2, 2, 2), constant(2)))
calls("conv_transpose1d", call(ROWS, constant(5, 2, 3), constant(2)), call(ROWS, Given((5, 2, 3)), constant(2)))
calls("conv_transpose2d", call(X, constant(4, 2, 3, 3), constant(2), 2))
calls("conv_transpose3d", call(Given((2, 3, 4, 4, 4)), constant(3, 2, 2, 2, 2)))

calls("max_pool1d adaptive_max_pool1d max_pool1d_with_indices adaptive_max_pool1d_with_indices", call(ROWS, 2))
calls("max_pool2d max_pool2d_with_indices", call(X, 2), call(X, 3, 2, 1), call(ROWS, 2))
calls("max_pool3d max_pool3d_with_indices", call(X, (2, 2, 2)), call(Given((2, 3, 4, 4, 4)), 2))
calls("adaptive_max_pool2d adaptive_max_pool2d_with_indices", call(X, 1), call(X, (2, 3)))
calls("adaptive_max_pool3d adaptive_max_pool3d_with_indices", call(Given((2, 3, 4, 4, 4)), 2))
calls("amax amin", call(X, (2, 3)), call(X, 1, True))
calls("max min", call(X, 1), call(X, -1, True), call(X, dim=2, keepdim=True), call(X, Given((6,))))
calls("lp_pool1d", call(ROWS, 2.0, 2), call(ROWS, 1, 3, 1, True))
calls("lp_pool2d", call(X, 2.0, 2), call(POSITIVE, 1.0, (2, 3), 2), call(X, 1.0, 2))
calls("lp_pool3d", call(X, 4.0, 2))

calls("batch_norm", call(X, constant(4), constant(4).abs(), constant(4), constant(4)))
calls("layer_norm", call(X, (6, 6), constant(6, 6), constant(6, 6)), call(X, (6,)))
calls("rms_norm", call(X, (6,), constant(6)))
calls("group_norm", call(X, 2, constant(4), constant(4)), call(Given((3, 4)), 2))
calls("instance_norm", call(X), call(X, constant(4), constant(4).abs(), constant(4), constant(4), False))
calls("local_response_norm", call(X, 3), call(X, 2, 0.5, 0.6, 2.0))
calls("normalize", call(X), call(X, 1.0, 2), call(X, dim=-1))
calls(
    "norm linalg_vector_norm linalg_norm", call(X, 2, 1), call(X, 3, 1, True), call(X, float("inf"), -1), call(X, 1, 1)
)
calls("var std", call(X, (2, 3)), call(X, 1, False), call(X, 1, keepdim=True), call(X, 1, correction=0))
calls("var_mean std_mean", call(X, (2, 3), keepdim=True))
calls("cosine_similarity", call(X, Given()), call(X, constant(3, 4, 1, 1)))
calls("pairwise_distance", call(Given((3, 6)), Given((3, 6))), call(Given((3, 6)), constant(3, 6), 1.0))
calls("cdist", call(ROWS, ROWS), call(ROWS, constant(3, 2, 4), 1.0))

calls("softmax log_softmax special_softmax special_log_softmax softmin", call(X, 1), call(Given(scale=5), -1))
calls("logsumexp special_logsumexp", call(X, 1), call(X, (2, 3), True))
calls("glu", call(X, 1), call(X))
calls(
    "scaled_dot_product_attention",
    call(X, X, X),
    call(X, X, X, constant(6, 6) > -1),
    call(X, X, X, is_causal=True),
    call(X, constant(3, 4, 6, 6), X, Given((6, 6)), scale=0.7),
)
SEQUENCE = Given((5, 3, 4))
PROJECTIONS = (4, 2, constant(12, 4), constant(12), None, None, False, 0.0, constant(4, 4), constant(4))
calls(
    "multi_head_attention_forward",
    call(SEQUENCE, SEQUENCE, SEQUENCE, *PROJECTIONS, training=False, need_weights=False),
    call(SEQUENCE, Given((2, 3, 4)), Given((2, 3, 4)), *PROJECTIONS, training=False),
)

FILTER = constant(6, 4, 2)

PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "where by a comparison": lambda x: torch.where(x > 0.3, x, 0.1 * x),
    "where by two": lambda x: torch.where((x > -0.2) & (x.abs() < 0.7), x.square(), x - 1),
    "where by either": lambda x: torch.where((x > 0.4) | ~(x >= -0.3), x, 0.0),
    "where by logic": lambda x: torch.where(
        torch.logical_or(x > 1, torch.logical_not(x > 0).logical_and(x > -1)), x, 1
    ),
    "where by bits": lambda x: torch.where((x > 1).bitwise_or(MASK.bitwise_and(x > -1)).bitwise_not(), x, 1.0),
    "where between two of the image": lambda x: torch.where(x > x.flip(-1), x, 2 * x.flip(-1)),
    "a mask that is multiplied": lambda x: x * (x > 0),
    "a mask as numbers": lambda x: x * (x > 0).float() + (x < 1).to(x.dtype).mean(1, keepdim=True),
    "a mask that is counted": lambda x: x / (1 + (x > 0).sum(1, keepdim=True)),
    "a mask in another shape": lambda x: x.masked_fill((x.mean(1) > 0).unsqueeze(1), 0.5),
    "a mask in the shape of another": lambda x: torch.where((x.mean(1, keepdim=True) > 0).expand_as(x), x, 0.2 * x),
    "numbers in the shape of a mask": lambda x: x.flatten(1).view_as(x > 0).tanh(),
    "filled in place": lambda x: (x * 1).masked_fill_(x < 0, -0.3),
    "put in place by a comparison": lambda x: _put(x * 1),
    "a mask with a constant": lambda x: torch.where((x > 0) & MASK, x, -x),
    "large values": lambda x: (x + 1e3).softmax(1),
    "parts masked by minus infinity": lambda x: x.masked_fill(MASK, -torch.inf).softmax(-1),
    "sums of logs masked by minus infinity": lambda x: x.masked_fill(MASK, -torch.inf).logsumexp((1, 3)),
    "filters in the frequencies": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(FILTER)),
    "lengths of complex numbers": lambda x: torch.fft.rfft2(x).abs(),
    "products of complex numbers": lambda x: (torch.fft.fft2(x) * torch.fft.fft2(x.tanh()).conj()).real,
    "parts of complex numbers": lambda x: torch.view_as_real(torch.fft.rfft2(x)).flatten(1),
    "back from the frequencies": lambda x: torch.istft(
        torch.stft(x.flatten(1), 16, window=torch.ones(16), return_complex=True), 16, window=torch.ones(16)
    ),
    "the imaginary part": lambda x: torch.fft.rfft2(x).imag,
    "largest of all of a row": lambda x: x.flatten(1).max(1).values,
    "distances to a set": lambda x: torch.cdist(x.flatten(1), constant(7, 144).to(x.dtype)),
}


def _put(values: Tensor) -> Tensor:
    values[values < 0] = 0.25
    return values
