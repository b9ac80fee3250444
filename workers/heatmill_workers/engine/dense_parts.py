"""The plain tensors of which other kinds of tensors are made."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

ROWS, COLUMNS = ("crow_indices", "col_indices"), ("ccol_indices", "row_indices")
INDICES = {
    torch.sparse_coo: ("indices",),
    torch.sparse_csr: ROWS,
    torch.sparse_bsr: ROWS,
    torch.sparse_csc: COLUMNS,
    torch.sparse_bsc: COLUMNS,
}


def dense_parts(tensor: Tensor) -> Mapping[str, Tensor]:
    """The tensors that hold a tensor's numbers, by what they are; itself, without a name, where it is a plain one."""
    # One of no layout that lies in memory as it is: mkldnn's.
    if tensor.is_mkldnn:
        return {"": tensor.to_dense()}
    if tensor.is_quantized:
        return {"": tensor.int_repr(), ".scale": tensor.dequantize()}
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return {f".{name}": getattr(tensor, name) for name in names}
    if tensor.is_nested:
        return {f".{place}": part for place, part in enumerate(tensor.unbind())}
    if tensor.layout not in INDICES:
        return {"": tensor}
    tensor = tensor.coalesce() if tensor.layout is torch.sparse_coo else tensor
    return {f".{name}": getattr(tensor, name)() for name in (*INDICES[tensor.layout], "values")}
