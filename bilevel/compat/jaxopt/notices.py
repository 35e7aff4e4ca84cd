"""What differs from JAXopt on purpose is said once, with the remedy."""

from __future__ import annotations

import warnings

_SAID: set[str] = set()


class MigrationWarning(UserWarning):
    """A setting or function of JAXopt that acts differently here."""


def differs(name: str, sentence: str) -> None:
    """Warns of a difference once in a process."""
    message = f"{name}: {sentence}"
    if message not in _SAID:
        _SAID.add(message)
        warnings.warn(message, MigrationWarning, stacklevel=4)


STEPS = (
    "the search for a step is bilevel's own and has no such setting; the solution is the same up to `tol`. Leave it out"
)
UNUSED = {
    "verbose": "nothing is printed within a solve. Read `state.error`, `state.iter_num` and `state.status` of the "
    "result, or call `update` in a loop and print",
    "jit": "a solve is one compiled program that is kept for its settings and shapes; it runs in Python only where the "
    "function cannot be traced. Leave it out, or use `jax.disable_jit()` to look into a solve",
    "xtol": "a solve ends by the norm of the gradient alone. Set `tol`, or `gtol` with stop_criterion='madsen-nielsen'",
    **dict.fromkeys(
        ("damping_parameter", "solver", "materialize_jac"),
        "steps and damping are those of bl.LevenbergMarquardt; the solution is the same up to `tol`. Leave it out",
    ),
    **dict.fromkeys(
        (
            "maxls", "decrease_factor", "increase_factor", "linesearch", "linesearch_init", "condition",
            "max_stepsize", "min_stepsize", "use_gamma", "theta", "stop_if_linesearch_fails", "gamma",
        ),
        STEPS,
    ),
}  # fmt: skip
