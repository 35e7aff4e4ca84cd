"""Random bilevel problems against an independent oracle: what is silently wrong, and what cries wolf?

    python scripts/adversary.py --minutes 60         a search, from a seed of the day
    python scripts/adversary.py --seed 17            one case again, each draw in words
    python scripts/adversary.py --from 1 --cases 50  fifty cases

A case is a structure (loss, penalty or set, tree, engine, solver, precision, size 1 to 300), compiled once, and some
draws of data for it; every fifth case is a quadratic program. What bilevel says is compared with numpy solvers that
share no code with it (`adversary_oracle`, `adversary_programs`). Counted are: "silent wrong" (a status that can be
used, and a gradient wrong beyond its estimate), "false alarm" (a failure on a tame problem), "estimate off" (by more
than three, after the factor of 1.25), "kink unsaid" (no derivative exists, and the report claims one), "raw error" (no
sentence of ours).
Exit code 1 where anything is silently wrong.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import time

# Unoptimised, a compilation takes a quarter of the time; the flags are those of the tests.
UNOPTIMISED = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the oracle's matrices are small
    os.environ["XLA_FLAGS"] = f"{UNOPTIMISED} {os.environ.get('XLA_FLAGS', '')}".strip()

import gc
import logging
import warnings
from collections.abc import Iterator

import adversary_cases as cases
import adversary_programs as programs
import jax
import numpy as np
from adversary_judge import FAULTS, Verdict, ask, judge

DRAWS, SMALL, DRAWS_OF_SMALL = 6, 12, 20  # the draws of small cases cost little beside their compilation
PROGRAMS = 5  # every so many cases is a program
CUT = 4  # every so many cases is asked again with a solver that is cut short
CLEARED = 10  # cases after which compiled programs are dropped: each holds memory maps, of which a process has 65,530


def verdicts(seed: int) -> Iterator[tuple[str, Verdict]]:
    """(which draw, verdict) for each draw of a case, from a cold start and from its own solution."""
    if seed % PROGRAMS == 0:
        yield from programs.verdicts(seed, DRAWS_OF_SMALL)
        return
    try:
        structure = cases.draw_structure(seed)
    except ValueError as error:
        yield "statement", Verdict("refused", str(error))
        return
    yield from of_structure(structure, seed)
    if seed % CUT == 1:
        try:
            yield from of_structure(cases.cut_short(structure, seed), seed)
        except ValueError as error:
            yield "statement, cut short", Verdict("refused", str(error))


def of_structure(structure: cases.Structure, seed: int) -> Iterator[tuple[str, Verdict]]:
    """The verdicts on the draws of one structure."""
    for number in range(DRAWS_OF_SMALL if structure.size <= SMALL else DRAWS):
        draw = cases.draw_data(structure, seed, number)
        name = f"{structure.text}; draw {number} ({draw.kind})"
        answer = ask(structure, draw)
        if isinstance(answer, Verdict):
            yield name, answer
            return
        yield name, judge(structure, draw, answer)
        if not answer.failure and number % 2 == 0:
            again = ask(structure, draw, answer.report.carry)
            yield f"{name}, from its solution", again if isinstance(again, Verdict) else judge(structure, draw, again)


def run(seeds: Iterator[int], deadline: float, talkative: bool) -> collections.Counter[str]:
    """Counts of verdicts; each fault is printed with the seed that gives it again."""
    counts: collections.Counter[str] = collections.Counter()
    for number, seed in enumerate(seeds):
        if time.monotonic() > deadline:
            break
        for name, verdict in verdicts(seed):
            counts[verdict.word] += 1
            if talkative or verdict.word in FAULTS:
                print(f"seed {seed}: {verdict.word}: {name}. {verdict.why}", flush=True)
        counts["cases"] += 1
        if number % CLEARED == CLEARED - 1:
            jax.clear_caches()
            gc.collect()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description="Random bilevel problems against an oracle.")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--cases", type=int, default=sys.maxsize)
    parser.add_argument("--from", type=int, default=int(time.time()) % 1_000_000 * 100, dest="first")
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_traceback_filtering", "off")  # who raised an error says whether it is a refusal
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    np.set_printoptions(precision=6)
    deadline = time.monotonic() + 60 * chosen.minutes
    if chosen.seed is not None:
        counts = run(iter([chosen.seed]), deadline, talkative=True)
    else:
        counts = run(iter(range(chosen.first, chosen.first + chosen.cases)), deadline, talkative=False)
    print(", ".join(f"{word}: {count}" for word, count in sorted(counts.items())))
    return 1 if counts["silent wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
