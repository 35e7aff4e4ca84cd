"""The table of a device beside the CPU, the CPU standing for the device here, and the benchmarks on what is there."""

import csv
import importlib.util
import math

import accelerator
import numpy as np
import pytest


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["accelerator.py", *map(str, arguments)])
    accelerator.main()


def rows_of(folder):
    (path,) = folder.glob("*.csv")
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("chess",), "no arm chess: there are default, programs"),
        (("--benchmarks", "chess"), "no benchmark chess: there"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_runs(monkeypatch, capsys, tmp_path, words, sentence):
    with pytest.raises(SystemExit):
        run(monkeypatch, *words, "--out", tmp_path)
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_benchmark_of_the_list_exists():
    assert all((accelerator.PEERS / f"{name}.py").is_file() for name in accelerator.BENCHMARKS)


def test_the_error_is_the_largest_relative_one():
    truth = {"x": np.array([3.0, 4.0]), "y": np.array([2.0])}
    assert accelerator.error(truth, truth) == 0.0
    assert accelerator.error({"x": np.array([3.0, 4.5]), "y": np.array([2.1])}, truth) == pytest.approx(0.1)
    assert accelerator.error({"x": np.array([3.0, np.nan]), "y": np.array([2.0])}, truth) == math.inf


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_arms_end_within_the_time_whatever_they_take(monkeypatch, tmp_path, share):
    clock, found = [0.0], accelerator.Run("a device", 2.0, 1.0, {"x": np.ones(2)})

    def spend(arm, environment, seconds, words):
        clock[0] += share * seconds
        return found

    monkeypatch.setattr(accelerator.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(accelerator, "run", spend)
    monkeypatch.setattr(accelerator, "device", lambda environment=None: ("gpu", "a device"))
    accelerator.compared(list(accelerator.ARMS), {}, 8.0, False, tmp_path)
    assert clock[0] <= 8 * 60
    rows = rows_of(tmp_path)
    assert [row["arm"] for row in rows] == [arm.words for arm in accelerator.ARMS.values()]
    assert all(row["cpu_over_device"] == "1" and row["error"] == "0" for row in rows) or share == 1.0


def test_without_an_accelerator_the_row_is_half(monkeypatch, tmp_path):
    monkeypatch.setattr(accelerator, "run", lambda *given: accelerator.Run("a CPU", 2.0, 1.0, {"x": np.ones(2)}))
    monkeypatch.setattr(accelerator, "device", lambda environment=None: ("cpu", "a CPU"))
    run(monkeypatch, "svm", "--out", tmp_path)
    (row,) = rows_of(tmp_path)
    assert (row["device_seconds"], row["cpu_seconds"], row["error"], row["note"]) == ("-", "1", "-", "")


@pytest.mark.slow
def test_the_cpu_beside_itself(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    run(monkeypatch, "default", "programs", "programs_qpax", "--small", "--device", "cpu", "--out", tmp_path)
    default, programs, qpax = rows_of(tmp_path)
    for row in (default, programs):
        assert row["note"] == "" and float(row["error"]) <= 1e-9
        assert float(row["device_seconds"]) > 0 and float(row["cpu_seconds"]) > 0
    installed = importlib.util.find_spec("qpax") is not None
    assert ("qpax is not installed here: pip install qpax" in qpax["note"]) == (not installed)
    assert "| bilevel |" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_missing_is_a_sentence_of_the_row(monkeypatch, tmp_path):
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    run(monkeypatch, "hyperclean_mnist", "omniglot", "--out", tmp_path)
    for row, name in zip(rows_of(tmp_path), ("mnist", "omniglot"), strict=True):
        assert row["cpu_seconds"] == "-"
        assert row["note"].startswith(
            f"CPU: The data set {name} is read from a folder of published files: set data.root"
        )


@pytest.mark.slow
def test_an_arm_that_takes_too_long_is_a_sentence_of_the_row(monkeypatch, tmp_path):
    run(monkeypatch, "programs", "svm", "--minutes", 0.05, "--out", tmp_path)
    assert "did not end within its 3 seconds" in rows_of(tmp_path)[0]["note"]
    assert "no time was left for it" in rows_of(tmp_path)[1]["note"]


@pytest.mark.slow
def test_results_are_kept_by_device(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "--benchmarks", "scaling", "--small", "--out", tmp_path)
    (folder,) = tmp_path.iterdir()
    with (folder / "scaling.csv").open() as stream:
        assert {row["device"] for row in csv.DictReader(stream)} == {accelerator.device()[1]}
    assert "scaling: done" in capsys.readouterr().out
