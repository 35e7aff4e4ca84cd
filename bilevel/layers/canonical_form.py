"""Parametrised CVXPY problems as programs whose data are affine functions of the parameters: the door to CVXPY."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from bilevel import cones
from bilevel.cones import Cone
from bilevel.kernels.symmetric import upper_by_columns
from bilevel.layers.cvxpy_refusals import cvxpy_of, refuse, refuse_cones, refuse_curvature
from bilevel.layers.explicit_unknowns import explicit_last
from bilevel.layers.norm_bounds import Canonical, Dims, without_bounds

Sparse = Any  # a matrix of scipy.sparse


class Entries(NamedTuple):
    """A vector, or a sparse matrix, by the places of its entries and by where these stand among all data."""

    shape: tuple[int, ...]
    source: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


class Leaf(NamedTuple):
    """A variable by the places of its entries among the unknowns; -1 for an entry that is always zero."""

    shape: tuple[int, ...]
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class CanonicalForm:
    """The arguments (Q, q, A, b, G, h) of a quadratic program, or (A, b, c) of a program over ``cone``. Their entries
    are ``(offset + slope @ theta)[source]``; theta are the entries of all parameters, each in row-major order. The
    first ``explicit`` equalities of a quadratic program give as many last unknowns."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    data: tuple[Entries, ...]
    cone: Cone | None  # None for a quadratic program, whose rows are equalities and inequalities
    offset: np.ndarray
    slope: scipy.sparse.coo_matrix
    variables: tuple[Leaf, ...]
    explicit: int


def canonical_form(problem: Any, parameters: list, variables: list) -> CanonicalForm:
    """The form that CVXPY's reductions give. Raises ValueError and TypeError, in a sentence, for what has none."""
    cp = cvxpy_of(problem)
    refuse(cp, problem, parameters, variables)
    program, chain = _reduced(cp, problem, quadratic=True)
    linear = not _cone(program.cone_dims, curved=True).cones
    if not linear and program.P is not None:  # over other cones the objective has to be linear
        refuse_curvature(problem)
        program, chain = _reduced(cp, problem, quadratic=False)
    constants = [column for key, column in program.param_id_to_col.items() if key < 0]
    leaves = [_leaf(program, chain, variable) for variable in variables]
    canonical, curvature, explicit = _canonical(program), None, 0
    if linear:
        canonical, curvature, place, explicit = explicit_last(canonical, _curvature(program), constants)
    else:
        kept = np.concatenate([np.zeros(0, int), *(leaf.index for leaf in leaves)])
        canonical, place = without_bounds(canonical, constants, kept[kept >= 0])
    data, tensor = _data(canonical, curvature)
    return CanonicalForm(
        names=tuple(parameter.name() for parameter in parameters),
        shapes=tuple(parameter.shape for parameter in parameters),
        data=data,
        cone=None if linear else _cone(canonical.dims),
        offset=np.asarray(tensor[:, constants].todense()).sum(axis=1),
        slope=scipy.sparse.coo_matrix(tensor @ _spread(program, chain, parameters)),
        variables=tuple(leaf._replace(index=np.where(leaf.index < 0, -1, place[leaf.index])) for leaf in leaves),
        explicit=explicit,
    )


def _reduced(cp: Any, problem: Any, quadratic: bool) -> tuple[Any, Any]:
    """The parametrised cone program, with rows A x + b in the cones, and the chain of reductions that gave it."""
    options = {"use_quad_obj": quadratic}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parameters that have no value
        data, chain, _ = problem.get_problem_data(cp.CLARABEL, enforce_dpp=True, solver_opts=options)
    program = data["param_prob"]
    refuse_cones(program)
    return program, chain


def _canonical(program: Any) -> Canonical:
    """The parts of CVXPY's program."""
    n, places = program.x.size, program.constr_size * program.x.size
    rows = scipy.sparse.csr_matrix(program.A)  # of [A, b], column by column
    costs = scipy.sparse.csr_matrix(program.q)[:n]  # the last row is the constant of the objective
    return Canonical(rows[:places], rows[places:], costs, Dims.of(program.cone_dims))


def _curvature(program: Any) -> Sparse:
    """CVXPY's curvature, column by column, with rows of zeros where there is none."""
    n = program.x.size
    return scipy.sparse.csr_matrix((n * n, program.q.shape[1]) if program.P is None else program.P)


def _data(program: Canonical, curvature: Sparse | None) -> tuple[tuple[Entries, ...], Sparse]:
    """The arguments of our program, and the matrix that takes CVXPY's vector of parameters to all their entries."""
    n, count, zero = program.c.shape[0], program.b.shape[0], program.dims.zero
    order, c = _our_rows(program.dims), scipy.sparse.csr_matrix(program.c)
    A, of_A = _matrix(program.A, (count, n))
    of_b = scipy.sparse.csr_matrix(program.b)[np.argsort(order)]
    A = A._replace(rows=order[A.rows])
    sizes = [of_A.shape[0], count, n]
    at_A, at_b, at_c = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    tensors = [-of_A, of_b, c]  # CVXPY's rows are A x + b in K, ours b - A x
    A = A._replace(source=at_A)
    if curvature is None:
        return (A, _vector(at_b), _vector(at_c)), scipy.sparse.vstack(tensors).tocsr()
    Q, of_Q = _matrix(curvature, (n, n))
    Q = Q._replace(source=sum(sizes) + Q.source)
    bounds = (_kept(A, slice(0, zero)), _vector(at_b[:zero]), _kept(A, slice(zero, count)), _vector(at_b[zero:]))
    return (Q, _vector(at_c), *bounds), scipy.sparse.vstack([*tensors, of_Q]).tocsr()


def _matrix(tensor: Sparse, shape: tuple[int, int]) -> tuple[Entries, Sparse]:
    """The places that are ever used of a matrix whose entries, column by column, are the rows of ``tensor``; and the
    rows of the tensor at these places."""
    tensor = scipy.sparse.coo_matrix(tensor)
    tensor.eliminate_zeros()
    used, row = np.unique(tensor.row, return_inverse=True)
    kept = scipy.sparse.csr_matrix((tensor.data, (row, tensor.col)), shape=(used.size, tensor.shape[1]))
    height = max(shape[0], 1)
    return Entries(shape, np.arange(used.size), used % height, used // height), kept


def _vector(source: np.ndarray) -> Entries:
    return Entries(source.shape, source, np.arange(source.size), np.zeros(source.size, int))


def _kept(matrix: Entries, rows: slice) -> Entries:
    inside = (matrix.rows >= rows.start) & (matrix.rows < rows.stop)
    shape = (rows.stop - rows.start, matrix.shape[1])
    return Entries(shape, matrix.source[inside], matrix.rows[inside] - rows.start, matrix.columns[inside])


def _cone(dims: Any, curved: bool = False) -> cones.Product:
    """CVXPY's cones in its order; without the linear ones where only ``curved`` ones are asked for."""
    parts: list[Cone] = [] if curved else [cones.Zero(dims.zero), cones.NonNegative(dims.nonneg)]
    parts += [cones.SecondOrder(n) for n in dims.soc] + [cones.PSD(n) for n in dims.psd]
    parts += [cones.Exponential()] * dims.exp + [cones.Power(alpha) for alpha in dims.p3d]
    return cones.Product(*(part for part in parts if part.dim))


def _our_rows(dims: Any) -> np.ndarray:
    """The place of each of CVXPY's rows in ours, which differ in the order of a symmetric matrix's entries."""
    order, start = [], 0
    for part in _cone(dims).cones:
        inside = upper_by_columns(part.n) if isinstance(part, cones.PSD) else np.arange(part.dim)
        order.append(start + inside)
        start += part.dim
    return np.concatenate([np.zeros(0, int), *order])


def _spread(program: Any, chain: Any, parameters: list) -> Sparse:
    """The matrix that takes theta to CVXPY's vector of parameters, whose entries for the constants stay zero. Of a
    symmetric parameter the symmetric part counts, of a diagonal or sparse one the entries that it may have."""
    renamed, rows, columns, values, start = chain.compose_param_id_map(), [], [], [], 0
    for parameter in parameters:
        (name,) = renamed.get(parameter.id, [parameter.id])
        places = start + np.arange(parameter.size).reshape(parameter.shape)
        start += parameter.size
        if name not in program.param_id_to_col:  # the problem does not depend on it
            continue
        twice = [places, np.swapaxes(places, -1, -2)] if is_symmetric(parameter) else [places]
        for each in twice:
            kept = _stored(parameter, each)
            rows.append(program.param_id_to_col[name] + np.arange(kept.size))
            columns.append(kept)
            values.append(np.full(kept.size, 1 / len(twice)))
    joined = [
        np.concatenate([np.zeros(0, kind), *parts]) for parts, kind in ((rows, int), (columns, int), (values, float))
    ]
    return scipy.sparse.csr_matrix((joined[2], (joined[0], joined[1])), shape=(program.q.shape[1], start))


def _leaf(program: Any, chain: Any, variable: Any) -> Leaf:
    """Where the entries of a variable are among the unknowns."""
    index = np.full(variable.shape, -1)
    if not variable.size:
        return Leaf(variable.shape, index.ravel())
    (name,) = chain.compose_var_id_map().get(variable.id, [variable.id])
    if name not in program.var_id_to_col:
        raise ValueError(
            f"bl.from_cvxpy: CVXPY's reductions removed the variable {variable.name()}, because nothing depends on it. "
            "Take it out of variables."
        )
    kept = _stored(variable, np.arange(variable.size).reshape(variable.shape))
    index = index.ravel()
    index[kept] = program.var_id_to_col[name] + np.arange(kept.size)
    if is_symmetric(variable):
        index = index.reshape(variable.shape)
        index = np.maximum(index, np.swapaxes(index, -1, -2)).ravel()
    return Leaf(variable.shape, index)


def _stored(leaf: Any, places: np.ndarray) -> np.ndarray:
    """The entries of a leaf that CVXPY stores, in its order."""
    if is_symmetric(leaf):
        upper = np.triu_indices(leaf.shape[-1])
        return places[..., upper[0], upper[1]].ravel(order="F")
    if leaf.sparse_idx is not None:
        return places[leaf.sparse_idx]
    return np.diagonal(places) if leaf.attributes["diag"] else places.ravel(order="F")


def is_symmetric(leaf: Any) -> bool:
    return any(leaf.attributes[name] for name in ("symmetric", "PSD", "NSD"))
