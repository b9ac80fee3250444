"""Weights are known by their content, in whatever layout they are stored, and in each process alike."""

import io
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatmill.errors import ModelRefused, ModelUnavailable
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.models.digest import digest
from tests.workers.models.proof.subjects import Net, maps, noise, proved, seeded

DENSE = torch.eye(8) * 0.5 + torch.eye(8).roll(1, 0)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "coo": Tensor.to_sparse,
    "csr": Tensor.to_sparse_csr,
    "csc": Tensor.to_sparse_csc,
    "bsr": lambda dense: dense.to_sparse_bsr((2, 2)),
    "bsc": lambda dense: dense.to_sparse_bsc((2, 2)),
    "nested": lambda dense: torch.nested.nested_tensor([dense[0], dense[1, :3]]),
    "jagged": lambda dense: torch.nested.nested_tensor([dense[0], dense[1, :3]], layout=torch.jagged),
    "mkldnn": Tensor.to_mkldnn,
    "complex": lambda dense: dense.to(torch.complex64),
    "conjugate": lambda dense: (dense * (1 + 1j)).conj(),
    "quantised": lambda dense: torch.quantize_per_tensor(dense, 0.01, 0, torch.qint8),
    "float8": lambda dense: dense.to(torch.float8_e4m3fn),
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*Sparse:UserWarning", "ignore:.*nested tensors:UserWarning", "ignore:.*quantize:UserWarning"
)


class Holds(nn.Module):
    """One buffer."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", tensor)


class Keeps(nn.Module):
    """What is no tensor."""

    def __init__(self, extra: object) -> None:
        super().__init__()
        self.extra = extra

    def get_extra_state(self) -> object:
        """Any."""
        return self.extra

    def set_extra_state(self, state: object) -> None:
        """Nothing is restored."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_tensors_of_every_layout_are_known_by_their_numbers(name: str) -> None:
    stored = LAYOUTS[name]

    assert digest(Holds(stored(DENSE))) == digest(Holds(stored(DENSE.clone())))
    assert digest(Holds(stored(DENSE))) != digest(Holds(stored(DENSE * 2)))


def test_sparse_tensors_are_known_by_their_places_and_their_size() -> None:
    others = [DENSE.T, torch.cat([DENSE, torch.zeros(8, 1)], 1)]
    digests = {digest(Holds(each.to_sparse_csr())) for each in (DENSE, *others)}

    assert len(digests) == 3
    unsorted = torch.sparse_coo_tensor(torch.tensor([[1, 0, 0], [1, 0, 0]]), torch.tensor([2.0, 0.5, 0.5]), (2, 2))
    assert digest(Holds(unsorted)) == digest(Holds(torch.diag(torch.tensor([1.0, 2.0])).to_sparse()))


class MultipliesSparse(Net):
    """Its features go through a sparse matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", DENSE)

    def read(self, features: Tensor) -> Tensor:
        return (self.matrix @ super().read(features).T).T  # type: ignore[operator]


def sparse(stored: Callable[[Tensor], Tensor]) -> LoadedModel:
    module: Any = seeded(MultipliesSparse)
    module.matrix = stored(module.matrix)
    return proved(module)


@pytest.mark.parametrize("name", ["coo", "csr", "csc"])
def test_a_model_with_a_sparse_matrix_is_explained_as_with_a_full_one(name: str) -> None:
    model, full = sparse(LAYOUTS[name]), proved(seeded(MultipliesSparse))

    for method in ("saliency", "deep_lift", "partition_shap"):
        torch.testing.assert_close(maps(method, model, noise()), maps(method, full, noise()), rtol=1e-3, atol=1e-6)
    assert model.nbytes > 0


def test_what_has_no_numbers_is_named() -> None:
    with pytest.raises(ModelUnavailable, match="matrix is on the meta device"):
        sparse(lambda dense: dense.to("meta"))


class Unreadable(Tensor):
    """Its numbers are nowhere."""

    @staticmethod
    def __new__(cls) -> "Unreadable":
        return torch.Tensor._make_wrapper_subclass(cls, (2,))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if "detach" in str(func):
            return args[0]
        raise NotImplementedError("no numbers")


def test_a_tensor_that_cannot_be_read_is_refused_by_name() -> None:
    with pytest.raises(ModelRefused, match=r"numbers in table \(Unreadable, torch.strided\) cannot be read"):
        digest(Holds(Unreadable()))


def test_arrays_and_objects_beside_the_tensors_count_in_full() -> None:
    long = np.arange(5000)
    other = long.copy()
    other[2500] = 0
    pairs: list[tuple[object, object]] = [
        (long, other),
        ({"a": [1, {"b": DENSE}]}, {"a": [1, {"b": DENSE * 2}]}),
        (SimpleNamespace(level=1), SimpleNamespace(level=2)),
        ({1: "a", "b": 2}, {1: "a", "b": 3}),
        (DENSE.to_sparse(), DENSE.T.to_sparse()),
        (torch.empty(2, device="meta"), torch.empty(3, device="meta")),
    ]

    for one, two in pairs:
        assert digest(Keeps(one)) != digest(Keeps(two))


class Plain:
    """Prints where it lies in memory."""

    def __init__(self) -> None:
        self.level, self.itself, self.function = 1, self, lambda: 0


def test_an_object_is_known_by_what_it_holds_and_not_by_where_it_lies() -> None:
    one, two = Plain(), Plain()

    assert repr(one) != repr(two)
    assert digest(Keeps({"plain": one, "names": {"a", "b"}})) == digest(Keeps({"plain": two, "names": {"b", "a"}}))


class Table:
    """An object that prints where in memory it lies."""

    def __init__(self, rows: object) -> None:
        self.rows = rows


class WithState(Net):
    """Keeps more than tensors."""

    def __init__(self, state: object = None) -> None:
        super().__init__()
        self.state = state

    def get_extra_state(self) -> object:
        """A setting."""
        return self.state

    def set_extra_state(self, state: object) -> None:
        """Nothing is restored."""


def counted(last: float, kind: str = "float64") -> Any:
    """So many numbers that NumPy does not print all of them; the one in the middle is another."""
    numbers = np.zeros(5000, kind)
    numbers[2500] = last
    return numbers


def nested(depth: int) -> Table:
    table = Table(None)
    table.rows = [table, depth]
    return table


STATES: list[tuple[Callable[[], object], Callable[[], object]]] = [
    (lambda: {"threshold": 0.5}, lambda: {"threshold": 0.25}),
    (lambda: counted(1), lambda: counted(2)),
    (lambda: counted(1), lambda: counted(1, "float32")),
    (lambda: np.array(["a", None]), lambda: np.array(["b", None])),
    (lambda: np.float32(0.1), lambda: np.float32(0.2)),
    (lambda: Table(counted(1)), lambda: Table(counted(2))),
    (lambda: Table([Table(1)]), lambda: Table([Table(2)])),
    (lambda: [Table(torch.zeros(2))], lambda: [Table(torch.ones(2))]),
    (lambda: io.BytesIO(b"a"), lambda: io.BytesIO(b"b")),
    (lambda: {"cat", "dog", "bird"}, lambda: {"cat", "dog", "fish"}),
    (list, lambda: None),
    (lambda: "1", lambda: 1),
    (lambda: nested(1), lambda: nested(2)),
    (lambda: math.sin, lambda: math.cos),
    (lambda: Table, lambda: WithState),
]


@pytest.mark.parametrize(("state", "other"), STATES)
def test_what_a_module_keeps_besides_tensors_is_in_its_digest(
    state: Callable[[], object], other: Callable[[], object]
) -> None:
    def found(make: Callable[[], object]) -> str:
        torch.manual_seed(1)
        return digest(WithState(make()))

    first, again, changed = map(found, (state, state, other))

    assert first == again
    assert first != changed
