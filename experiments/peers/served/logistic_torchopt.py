"""TorchOpt's implicit differentiation with conjugate gradients on logistic regression with one penalty for each
feature: the inner problem by torch's L-BFGS, warm-started, since TorchOpt has no second-order solver of its own.

A gradient is counted at each evaluation of the inner loss with its derivative; TorchOpt's products, at each call of its
solver's operator."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torchopt
from outer import descend
from protocol import Run, serve

torch.set_default_dtype(torch.float64)


def prepare(arrays: dict, tol: float) -> Run:
    X, y, X_val, y_val = (torch.from_numpy(arrays[name]) for name in ("X", "y", "X_val", "y_val"))

    counts = {"gradients": 0, "products": 0}
    solver = torchopt.linear_solve.solve_cg(rtol=tol, maxiter=1000)

    def inner(w: Any, h: Any) -> Any:
        return torch.nn.functional.softplus(-y * (X @ w)).mean() + 0.5 * (torch.exp(h) * w**2).sum()

    def stationary(w: tuple, h: Any) -> tuple:
        return (torch.func.grad(inner)(w[0], h),)

    def solve(w: tuple, h: Any) -> tuple:
        at = w[0].detach().clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [at], max_iter=1000, tolerance_grad=tol, tolerance_change=0.0, line_search_fn="strong_wolfe"
        )

        def closure() -> Any:
            counts["gradients"] += 1
            optimizer.zero_grad()
            loss = inner(at, h.detach())
            loss.backward()
            return loss

        optimizer.step(closure)
        return (at.detach(),)

    def adjoint(matvec: Any, b: Any) -> Any:
        def counted(v: Any) -> Any:
            counts["products"] += 1
            return matvec(v)

        return solver(counted, b)

    solution = torchopt.diff.implicit.custom_root(stationary, argnums=1, solve=adjoint)(solve)

    def run() -> dict:
        state = {"w": (torch.zeros(X.shape[1]),)}

        def evaluate(h: np.ndarray) -> tuple:
            before = dict(counts)
            at = torch.from_numpy(h.copy()).requires_grad_()
            found = solution(state["w"], at)
            value = torch.nn.functional.softplus(-y_val * (X_val @ found[0])).mean()
            (gradient,) = torch.autograd.grad(value, at)
            state["w"] = (found[0].detach(),)
            return value.item(), gradient.numpy(), *(counts[name] - before[name] for name in counts)

        return descend(evaluate, arrays)

    return run


if __name__ == "__main__":
    serve({f"L-BFGS and CG {tol:.0e}": partial(prepare, tol=tol) for tol in (1e-5,)})
