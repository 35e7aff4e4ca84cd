"""What every test shares: float64, a compilation cache that lasts, the folder of published data sets, and figures that
can be drawn."""

import io
import math
import os
import pathlib
import zlib
from collections import defaultdict

import jax
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

# Compiled programs are kept between runs: most of the time of a first run of this suite is compilation.
jax.config.update("jax_compilation_cache_dir", str(REPOSITORY / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Unoptimised, a compilation takes a quarter of the time: so it is for the fast tests. The slow ones are as users are.
# One module for the code: split into several and unoptimised, XLA 0.10 got a comparison of 1e-17 with 1e-10 wrong.
UNOPTIMISED = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    UNOPTIMISED += " --xla_cpu_use_fusion_emitters=false"
GOLDEN = (math.sqrt(5) - 1) / 2


def pytest_configure(config):
    if config.option.markexpr == "not slow":
        os.environ["XLA_FLAGS"] = f"{UNOPTIMISED} {os.environ.get('XLA_FLAGS', '')}".strip()


@pytest.hookimpl(tryfirst=True)  # before the selection by marks
def pytest_collection_modifyitems(config, items):
    """``sample(n)`` keeps n cases of a product fast, spread over it by the golden ratio, and marks the others slow."""
    products = defaultdict(list)
    for item in items:
        if mark := item.get_closest_marker("sample"):
            products[item.path, item.cls, item.originalname, mark.args].append(item)
    for (_, _, name, (number,)), cases in products.items():
        kept, at = set(), zlib.crc32(name.encode()) / 2**32
        while len(kept) < min(number, len(cases)):
            kept.add(int(at * len(cases)))
            at = (at + GOLDEN) % 1
        for index, case in enumerate(cases):
            if index not in kept:
                case.add_marker("slow")
    if part := os.environ.get("TESTS_PART"):
        others = [item for item in items if not in_part(item.location[0], *map(int, part.split("/")))]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


def in_part(file: str, part: int, parts: int) -> bool:
    """Whether a file's tests are run by machine number ``part`` of ``parts``: files stay whole, for their fixtures."""
    return zlib.crc32(file.encode()) % parts == part - 1


@pytest.fixture(autouse=True)
def float64():
    """Every test runs in float64; a test of float32 opens ``jax.enable_x64(False)`` itself."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_root() -> pathlib.Path:
    """The folder of data sets as published: ``BILEVEL_DATA``, or ``shared/data`` beside the repository."""
    root = pathlib.Path(os.environ.get("BILEVEL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"needs the published data sets: {root} is no folder; set BILEVEL_DATA to the folder that has them")
    return root


@pytest.fixture
def drawn():
    """Draws every figure of a task for a result, as PNG."""

    def draw(task, result):
        sizes = {}
        for name, figure in task.figures.items():
            stream = io.BytesIO()
            figure(result).savefig(stream, format="png")
            sizes[name] = len(stream.getvalue())
        assert all(size > 2000 for size in sizes.values())
        return set(sizes)

    return draw
