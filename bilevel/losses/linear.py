"""Losses that are a function of X w, stated so that solvers and engines can use the matrix X."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental.sparse import BCOO, JAXSparse
from scipy.sparse import issparse

from bilevel.foundation.typing import Batch, HParams, Loss, Params, Scalar
from bilevel.losses.host_matrix import HostMatrix, View


@dataclass(frozen=True, eq=False)
class Linear:
    """loss(w, h, batch) = loss(z, w, h, batch) with z = design(batch) @ w.

    ``design`` returns a matrix of shape (samples, features): an array, a ``jax.experimental.sparse.BCOO`` or, to stay
    on the host, a `bl.HostMatrix`. ``params`` is one array whose first axis counts the features.
    ``loss(z, params, hparams, batch)`` is the smooth part.
    ``curvature(z, params, hparams, batch)``, where it is declared, is the second derivative of the loss in z at fixed
    params, a block for each sample: (n,), or (n, k, k) for params (features, k). Losses that couple samples have none.
    An instance is itself a loss, to be used wherever one is asked for.

    A SciPy sparse matrix that ``design`` closes over becomes a BCOO, once: an entry takes 16 bytes in float64, beside
    12 in SciPy's. In a batch it has to be a BCOO already (``BCOO.from_scipy_sparse``), because JAX takes no SciPy
    matrix there.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.Linear(design=lambda batch: batch[0],
    ...                  loss=lambda z, params, hparams, batch: 0.5 * jnp.mean((z - batch[1]) ** 2))
    >>> float(loss(jnp.ones(2), None, (jnp.eye(2), jnp.zeros(2))))
    0.5
    """

    design: Callable[[Batch], Any]
    loss: Callable[[jax.Array, Params, HParams, Batch], Scalar]
    curvature: Callable[[jax.Array, Params, HParams, Batch], jax.Array] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "design", _converting(self.design))

    def __call__(self, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return self.loss(self.design(batch) @ params, params, hparams, batch)


def design_of(loss: Loss, batch: Batch) -> Any:
    """The design of a loss that the caller knows to be a `Linear`."""
    assert isinstance(loss, Linear)
    return loss.design(batch)


def stays_on_host(loss: Loss, batch: Batch) -> bool:
    """Whether this is a `Linear` loss whose design is a `HostMatrix`, each product with which calls the host."""
    return isinstance(loss, Linear) and isinstance(loss.design(batch), HostMatrix)


def is_sparse(design: Any) -> bool:
    """Whether a design is sparse, so that making it an array would need more memory."""
    return isinstance(design, JAXSparse | HostMatrix | View)


def _converting(design: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
    """``design`` with SciPy's sparse matrices as BCOO; the last one is kept, since many products ask for it."""
    last: list[Any] = [None, None, None]

    @functools.wraps(design)
    def converted(batch: Batch) -> Any:
        matrix = design(batch)
        if not issparse(matrix):
            return matrix
        dtype = jax.dtypes.canonicalize_dtype(matrix.dtype)
        if last[0] is not matrix or last[1] != dtype:
            last[:] = matrix, dtype, _as_bcoo(matrix, dtype)
        return last[2]

    return converted


def _as_bcoo(matrix: Any, dtype: Any) -> BCOO:
    """The entries of a SciPy matrix in the order of its rows; concrete arrays, also while JAX traces."""
    entries = matrix.tocsr(copy=True)
    entries.sum_duplicates()
    places = entries.tocoo()
    with jax.ensure_compile_time_eval():
        indices = jnp.stack([jnp.asarray(places.row, jnp.int32), jnp.asarray(places.col, jnp.int32)], axis=1)
        data = jnp.asarray(places.data, dtype)
        return BCOO((data, indices), shape=matrix.shape, indices_sorted=True, unique_indices=True)


@jax.custom_jvp
def quadratic_form(matrix: Any, vectors: jax.Array) -> Scalar:
    """1/2 sum_c v_c' K v_c of a symmetric ``matrix`` K (n, n) and the columns v_c of ``vectors``, (n,) or (n, c); the
    sum over a stack of both, (..., n, n) and (..., n, c).

    The same number as ``0.5 * jnp.vdot(v, K @ v)``, with the derivative <K v, dv> + 1/2 <v, dK v>. A gradient or a
    Hessian product costs one product with K. JAX's rule costs two, the second with the transpose, which is slow on a
    CPU. Made for the Gram matrix of a dual problem. Symmetry is not checked: for another K the gradient is wrong.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> K, v = jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.array([1.0, 2.0])
    >>> float(bl.quadratic_form(K, v)), jax.grad(bl.quadratic_form, 1)(K, v).tolist()
    (9.0, [4.0, 7.0])
    """
    return 0.5 * jnp.vdot(vectors, matrix @ vectors)


def _quadratic_form_jvp(primals: tuple, tangents: tuple) -> tuple[Scalar, Scalar]:
    (matrix, vectors), (moved_matrix, moved_vectors) = primals, tangents
    image = matrix @ vectors
    change = jnp.zeros((), image.dtype)
    if not isinstance(moved_vectors, SymbolicZero):
        change += jnp.vdot(image, moved_vectors)
    if not isinstance(moved_matrix, SymbolicZero):
        change += 0.5 * jnp.vdot(vectors, moved_matrix @ vectors)
    return 0.5 * jnp.vdot(vectors, image), change


quadratic_form.defjvp(_quadratic_form_jvp, symbolic_zeros=True)
