"""``bilevel command=check``: right engines pass, a wrong derivative is found."""

import pytest

WRONG = """
import jax
import jax.numpy as jnp

import bilevel as bl


def hidden(*, seen: bool = False) -> bl.Task:
    weight = jnp.exp if seen else lambda hparams: jnp.exp(jax.lax.stop_gradient(hparams))
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda params, hparams, batch: 0.5 * (params - batch) ** 2 + 0.5 * weight(hparams) * params**2,
            init=lambda key, hparams: jnp.zeros(()),
        ),
        outer_loss=lambda params, hparams, batch: 0.5 * (params - batch) ** 2,
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(4.0, 1.0),
    )
"""


@pytest.mark.parametrize(("seen", "verdict", "code"), [("true", "right", 0), ("false", "WRONG", 1)])
def test_a_hidden_dependence_is_found(bilevel, folder, seen, verdict, code):
    (folder / "wrong.py").write_text(WRONG)
    done = bilevel("command=check", "task._target_=wrong.hidden", f"task.seen={seen}", "engine=implicit")
    assert done.returncode == code, done.stderr
    title, _, line = done.stdout.splitlines()
    assert title.startswith("hidden: slopes ")
    assert line.split()[0] == "implicit"
    assert line.split()[-1] == verdict
    assert done.stderr.startswith("bilevel: implicit disagree") if code else done.stderr == ""
    assert not (folder / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ridge", "lasso"])
def test_every_engine_is_right_on_a_task_that_ships(bilevel, task):
    done = bilevel("command=check", f"task={task}")
    assert done.returncode == 0, done.stderr
    verdicts = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()[2:]}
    for name in ("forward", "implicit", "implicit_cg", "implicit_dense", "implicit_gmres", "unrolled"):
        assert verdicts[name] == "right", done.stdout
