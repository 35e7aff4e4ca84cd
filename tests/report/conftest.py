"""A run on disk as a fit writes it, made in a moment."""

import json
import math

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def write_run(tmp_path):
    """Writes the record of a run, with changes to its summary and settings, and gives its folder."""

    def write(name="run", steps=12, summary=(), settings=(), status="converged"):
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        lines = [
            {
                **{
                    "step": step,
                    "outer/loss": 1 / (step + 1),
                    "outer/grad_norm": math.exp(-step),
                    "outer/status": "ok",
                },
                **{"inner/steps": 5, "inner/status": status, "inner/residual": 1e-12, "adjoint/steps": 3},
                **{"adjoint/status": "converged", "error_estimate": 1e-9, "error_grade": "estimate", "seconds": 0.1},
                **{"test/loss": 2 / (step + 1), "test/accuracy": step / 12, "hparams": [0.1 * step, -0.2 * step]},
            }
            for step in range(steps)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        head = {
            "sentence": "test accuracy 0.9; 0.8 without <cleaning>; 0.5 at the start",
            **{"name": "test accuracy", "value": 0.9, "start": 0.5, "baselines": {"without <cleaning>": 0.8}},
        }
        told = {
            **{"task": "cleaning", "engine": "Implicit", "status": "completed", "steps": steps, "best_step": 7},
            **{"best_outer_loss": 0.1, "initial_outer_loss": 1.0, "final_outer_loss": 0.1, "chosen_by": "stop/loss"},
            **{"headline": head, "hparams_natural": {"penalty": {"age": 0.5, "bmi": 2.0}}, "hyperparameters": 2},
            **{"unknowns": 10, "solver": "LBFGS", "seconds_total": 3.0, "counts": {"gradients": 60}},
            **dict(summary),
        }
        (folder / "summary.json").write_text(json.dumps(told))
        config = {"seed": 0, "task": {"train": 5, "stop": 0, "validation": 20}, "trainer": {"steps": steps}}
        (folder / ".hydra/config.yaml").write_text(json.dumps({**config, **dict(settings)}))
        (folder / ".hydra/overrides.yaml").write_text("- task=hyperclean\n")
        figure = Figure()
        figure.subplots().plot([0, 1])
        (folder / "figures").mkdir()
        figure.savefig(folder / "figures/weights.png", dpi=40)
        return folder

    return write
