"""The tensors at the end of a TorchScript file, read from a copy of its graph that puts them out too."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from heatmill_workers.models.proof.intervals import ALL, ARITHMETIC, CLAMPS, Range, clamp_bounds, range_of

# Behind the logits there are few calls; a hand-written softmax has about five, a mean over crops some more.
LAST = 64


@dataclass(frozen=True)
class Scripted:
    """Runs a graph that puts out what a TorchScript module does, and one tensor more.

    Args:
        module: Whose graph it is.
        number: Of the tensor, among those that the last operations make.
    """

    module: torch.jit.ScriptModule
    number: int

    def __call__(self, module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the module puts out for images, and that tensor."""
        outputs, values = self._function(module, images)
        return outputs, values

    @cached_property
    def _function(self) -> Callable[..., tuple[Tensor, ...]]:
        return _with_values(self.module, [self.number])


def last_results(module: torch.jit.ScriptModule, images: Tensor) -> Iterator[tuple[Tensor, Scripted, str]]:
    """Each tensor that one of the last operations makes of images, in order, how to read it again, and what made it."""
    # Its nodes live as long as the graph does.
    graph = module.inlined_graph
    makers = [_name(value.node()) for value in _last_values(graph)]
    values = _with_values(module, range(len(makers)))(module, images.clone())[1:] if makers else ()
    for number, (tensor, maker) in enumerate(zip(values, makers, strict=True)):
        yield tensor, Scripted(module, number), maker


def last_range(module: torch.jit.ScriptModule) -> Range | None:
    """The range of what the module puts out, where that follows from its operations."""
    graph = module.inlined_graph
    _, images = graph.inputs()
    ranges: dict[str, Range | None] = {images.debugName(): ALL}
    for node in graph.nodes():
        for value in node.outputs():
            if node.kind() == "prim::Constant" or value.type().kind() == "TensorType":
                ranges |= _ranges(node, value, ranges)
    (output,) = graph.outputs()
    return ranges.get(output.debugName())


def _ranges(node: Any, value: Any, known: dict[str, Range | None]) -> dict[str, Range | None]:
    """The range of one of a node's results, by its name; nothing of constants that are no numbers."""
    if node.kind() == "prim::Constant":
        constant = value.toIValue()
        is_number = isinstance(constant, (int, float)) and not isinstance(constant, bool)
        return {value.debugName(): Range(constant, constant, constant=True, is_number=True)} if is_number else {}
    return {value.debugName(): _range(_name(node), node, known) if node.kind().startswith("aten::") else None}


def _name(node: Any) -> str:
    """`softmax` of `aten::softmax` and `aten::softmax_`."""
    return str(node.kind()).partition("::")[2].strip("_")


def _range(name: str, node: Any, known: dict[str, Range | None]) -> Range | None:
    operands = [known[each.debugName()] for each in _flat(node) if each.debugName() in known]
    if name in ARITHMETIC:
        # The third is the factor of a sum.
        factor = operands[2] if len(operands) > 2 else None
        return None if factor and factor.low != 1 else range_of(name, operands[:2])
    values = [each.toIValue() for each in node.inputs()]
    bounds = clamp_bounds(name, values[1:], {}) if name in CLAMPS else ALL
    tensors = [each for each in operands if each is None or not each.is_number]
    return None if name == "sum" else range_of(name, tensors, bounds=bounds)


def _flat(node: Any) -> Iterator[Any]:
    """What a node takes, with what is in lists."""
    for value in node.inputs():
        if value.node().kind() == "prim::ListConstruct":
            yield from value.node().inputs()
        else:
            yield value


def _with_values(module: torch.jit.ScriptModule, numbers: Any) -> Callable[..., tuple[Tensor, ...]]:
    graph = module.inlined_graph.copy()
    (output,) = graph.outputs()
    values = _last_values(graph)
    wanted = [output, *(values[number] for number in numbers)]
    # torch has no other way to a part of a graph.
    both = graph.create("prim::TupleConstruct", wanted, 1)
    both.output().setType(torch._C.TupleType([value.type() for value in wanted]))  # noqa: SLF001
    graph.appendNode(both)
    graph.eraseOutput(0)
    graph.registerOutput(both.output())
    torch._C._jit_pass_dce(graph)  # noqa: SLF001
    made: Callable[..., tuple[Tensor, ...]] = torch._C._create_function_from_graph("tail", graph)  # noqa: SLF001
    return made


def _last_values(graph: Any) -> list[Any]:
    """The tensors that the last operations make; parameters are no such."""
    values = [value for node in graph.nodes() if node.kind().startswith("aten::") for value in node.outputs()]
    return [value for value in values[-LAST:] if value.type().kind() == "TensorType"]
