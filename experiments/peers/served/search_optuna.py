"""Optuna's TPE with default settings, which asks for the value of the point it suggests: one line each way."""

from __future__ import annotations

import json
import sys

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def main() -> None:
    size, low, high, seed = json.loads(sys.stdin.readline())
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    while True:
        trial = study.ask()
        point = [trial.suggest_float(f"h{index}", low, high) for index in range(size)]
        print(json.dumps(point), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        study.tell(trial, json.loads(line))


if __name__ == "__main__":
    main()
