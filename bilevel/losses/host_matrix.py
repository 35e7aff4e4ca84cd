"""A sparse matrix that stays on the host; a product costs as much as the columns in use."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from scipy.sparse import csc_array, issparse

from bilevel.foundation.callbacks import on_host


@jax.tree_util.register_static
class HostMatrix:
    """X, a SciPy sparse matrix of shape (samples, features): a design of `bl.Linear` that stays on the host.

        X @ w,   X.T @ r,   X.using(indices, number) @ v

    SciPy makes the products, in compiled programs too (`jax.pure_callback`). They are differentiable to any order;
    under vmap many vectors are one product. `using` takes the columns ``indices[:number]``, both traced values:
    products read only the entries of these columns, and a change of columns compiles nothing again. An entry takes 12
    bytes in float64 on the host; the device holds vectors only. Entries are constants: no derivative is taken with
    respect to them. A `HostMatrix` has no array leaves, so it may stand in a batch of `bl.full_batch`; another matrix
    compiles another program. Raises ValueError for anything but a SciPy sparse matrix of two axes with finite entries.

    >>> import jax, jax.numpy as jnp, scipy.sparse, bilevel as bl
    >>> X = bl.HostMatrix(scipy.sparse.eye(3, 4) * 2.0)
    >>> (X @ jnp.arange(4.0)).tolist(), (X.T @ jnp.ones(3)).tolist()
    ([0.0, 2.0, 4.0], [2.0, 2.0, 2.0, 0.0])
    >>> jax.grad(lambda v: jnp.sum((X.using(jnp.array([2, 0, 1]), 2) @ v) ** 2))(jnp.ones(3)).tolist()
    [8.0, 8.0, 0.0]
    """

    ndim = 2

    def __init__(self, matrix: Any) -> None:
        if not issparse(matrix) or matrix.ndim != 2:
            raise ValueError(
                f"bl.HostMatrix takes a SciPy sparse matrix of two axes, not a {type(matrix).__name__}: "
                "give a dense design as it is, or wrap it by scipy.sparse.csc_array."
            )
        columns: Any = csc_array(matrix, copy=False)
        if not columns.has_canonical_format:
            columns = columns.copy()
            columns.sum_duplicates()
        if columns.dtype.kind != "f":
            columns = columns.astype(np.float64)
        if not np.isfinite(columns.data).all():
            raise ValueError("The matrix given to bl.HostMatrix holds NaN or infinity: clean the data first.")
        self.shape: tuple[int, int] = columns.shape
        self.dtype, self._columns = columns.dtype, columns
        self._last: tuple[np.ndarray, Any] = np.zeros(0, np.int32), columns[:, :0]

    def __repr__(self) -> str:
        return f"HostMatrix({self.shape[0]} x {self.shape[1]}, {self._columns.nnz} entries, {self.dtype})"

    @property
    def T(self) -> View:
        """The transpose."""
        return View(self, transposed=True)

    def using(self, indices: jax.Array, number: int | jax.Array) -> View:
        """The columns ``indices``; all but the first ``number`` of them are zero."""
        return View(self, indices, jnp.asarray(number, jnp.int32))

    def __matmul__(self, vectors: jax.Array) -> jax.Array:
        return View(self) @ vectors

    def todense(self) -> jax.Array:
        """The matrix as an array on the device."""
        return self.using(jnp.arange(self.shape[1]), self.shape[1]).todense()

    def part(self, indices: np.ndarray, number: np.ndarray) -> Any:
        """The columns ``indices[:number]`` on the host; the last choice is kept because many products follow with
        it."""
        places, (known, columns) = indices[: int(number)], self._last
        if not np.array_equal(places, known):
            columns = self._columns[:, places]
            self._last = places.copy(), columns
        return columns

    def product(self, indices: np.ndarray, number: np.ndarray, vectors: np.ndarray, transposed: bool) -> np.ndarray:
        """The product of a `View` on the host; all columns where there are no ``indices``."""
        if not indices.size:
            return (self._columns.T if transposed else self._columns) @ vectors
        columns = self.part(indices, number)
        if not transposed:
            return columns @ vectors[: columns.shape[1]]
        image = np.zeros((indices.size, vectors.shape[1]), vectors.dtype)
        image[: columns.shape[1]] = columns.T @ vectors
        return image


@dataclass(frozen=True, eq=False)
class View:
    """A `HostMatrix`, some of its columns, or the transpose of these: a linear map, to be multiplied with."""

    matrix: HostMatrix
    indices: jax.Array | None = None  # None: all columns
    number: jax.Array | None = None  # how many of the indices count
    transposed: bool = False

    ndim: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.matrix.shape[0], self.matrix.shape[1] if self.indices is None else self.indices.size
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def T(self) -> View:
        return replace(self, transposed=not self.transposed)

    def __matmul__(self, vectors: jax.Array) -> jax.Array:
        vectors = jnp.asarray(vectors, jnp.result_type(vectors, float))
        if vectors.ndim not in (1, 2) or vectors.shape[0] != self.shape[1]:
            raise ValueError(
                f"A bl.HostMatrix of shape {self.shape} cannot multiply an array of shape {vectors.shape}: "
                f"its first of one or two axes has to have {self.shape[1]} entries."
            )
        flat = vectors.reshape(vectors.shape[0], -1)
        which = self._which()
        image = product_p.bind(*which, flat, matrix=self.matrix, rows=self.shape[0], transposed=self.transposed)
        return image.reshape(-1, *vectors.shape[1:])

    def todense(self) -> jax.Array:
        """The columns as an array on the device."""
        if self.transposed or self.indices is None:
            raise NotImplementedError("Only columns of a bl.HostMatrix are made dense: transpose what they give.")

        def filled(indices: np.ndarray, number: np.ndarray) -> np.ndarray:
            dense = np.zeros(self.shape, dtype)
            dense[:, : int(number)] = self.matrix.part(indices, number).toarray()
            return dense

        dtype = jax.dtypes.canonicalize_dtype(self.matrix.dtype)
        return on_host(filled, jax.ShapeDtypeStruct(self.shape, dtype), *self._which())

    def _which(self) -> tuple[jax.Array, jax.Array]:
        if self.indices is None or self.number is None:
            return jnp.zeros(0, jnp.int32), jnp.int32(0)
        return self.indices, self.number


# (indices, number, vectors) -> the product, with ``rows`` rows; linear in the vectors.
product_p = Primitive("host_matrix_product")


def _call(
    indices: jax.Array, number: jax.Array, vectors: jax.Array, *, matrix: HostMatrix, rows: int, transposed: bool
) -> jax.Array:
    like = jax.ShapeDtypeStruct((rows, vectors.shape[1]), vectors.dtype)
    product = functools.partial(matrix.product, transposed=transposed)
    return on_host(product, like, indices, number, vectors)


def _abstract(indices: Any, number: Any, vectors: Any, *, rows: int, **_: Any) -> Any:
    return vectors.update(shape=(rows, vectors.shape[1]))


def _jvp(primals: tuple, tangents: tuple, **parameters: Any) -> tuple:
    image, moved = product_p.bind(*primals, **parameters), tangents[2]
    if type(moved) is ad.Zero:
        return image, jnp.zeros_like(image)
    return image, product_p.bind(*primals[:2], moved, **parameters)


def _transpose(
    cotangent: Any, indices: jax.Array, number: jax.Array, vectors: Any, *, transposed: bool, **parameters: Any
) -> tuple:
    if type(cotangent) is ad.Zero:
        return None, None, ad.Zero(vectors.aval)
    parameters["rows"] = vectors.aval.shape[0]
    return None, None, product_p.bind(indices, number, cotangent, transposed=not transposed, **parameters)


def _batch(operands: tuple, axes: tuple, **parameters: Any) -> tuple:
    """Many vectors are the columns of one product; different columns of the matrix are one product each."""
    *which, vectors = operands
    axis = axes[2]
    if axes[0] is not None or axes[1] is not None:
        size = next(one.shape[axis] for one, axis in zip(operands, axes, strict=True) if axis is not None)
        lanes = [_in_front(one, place, size) for one, place in zip(operands, axes, strict=True)]
        return jax.lax.map(lambda lane: product_p.bind(*lane, **parameters), tuple(lanes)), 0
    lanes, kept = vectors.shape[axis], [length for place, length in enumerate(vectors.shape) if place != axis]
    together = jnp.moveaxis(vectors, axis, 2).reshape(kept[0], -1)
    image = product_p.bind(*which, together, **parameters)
    return image.reshape(image.shape[0], kept[1], lanes), 2


def _in_front(operand: jax.Array, axis: int | None, size: int) -> jax.Array:
    return jnp.broadcast_to(operand, (size, *operand.shape)) if axis is None else jnp.moveaxis(operand, axis, 0)


product_p.def_impl(_call)
product_p.def_abstract_eval(_abstract)
ad.primitive_jvps[product_p] = _jvp
ad.primitive_transposes[product_p] = _transpose
batching.primitive_batchers[product_p] = _batch
mlir.register_lowering(product_p, mlir.lower_fun(_call, multiple_results=False))
