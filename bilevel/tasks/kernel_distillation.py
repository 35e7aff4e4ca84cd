"""Dataset distillation by kernels: learned images and labels from which a regression on a kernel is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import full_batch, minibatches, whole_batch
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.task import Headline, Task
from bilevel.tasks import distillation_baselines, distillation_figures
from bilevel.tasks.distillation_baselines import Parts, accuracy
from bilevel.tasks.kernel_learner import Kernel, Learner, start_of
from bilevel.tasks.learned_images import starting_images
from bilevel.tasks.representations import in_blocks, pictures, representation
from bilevel.tasks.trained_network import NETWORKS, Images, Recipe, accuracies

LEARN = ("images", "labels", "both")


def kernel_distillation(
    *,
    data: str = "digits",
    root: str = "",
    images_per_class: int = 1,
    train: float = 0.76,
    stop: float = 0.04,
    learn: str = "both",
    start: str = "real",
    kernel: str = "ntk",
    head: str = "ridge",
    features: str = "pixels",
    features_steps: int = 150,
    depth: int = 1,
    bias: float = 0.1,
    scale: float = 0.7,
    penalty: float = 1e-3,
    batch_size: int = 0,
    network: str = "connected",
    network_steps: int = 400,
    seeds: int = 5,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Learns ``images_per_class`` images x_i of each class, labels y_i, or both, such that a kernel regression on them
    alone fits the real images.

        inner:  a(h) = (K(h) + penalty I)^{-1} Y(h)      on the learned images and labels h, K scaled to the trace m
        outer:  mean 1/2 ||k(x, h) a - y||^2             on ``train`` real images

    ``kernel``: "ntk" (fully connected, ``depth`` hidden layers, ``bias``), "rbf" (of ``scale`` times the root mean
    square distance of the data to their mean) or "linear". ``head`` "softmax" is multinomial logistic regression
    instead of ridge. The kernel reads ``features``: pixels, or those of a convolutional network with random weights
    or "trained" for ``features_steps`` steps on the real images. ``stop`` real images choose the best step; the rest
    are the test set. ``batch_size`` 0 takes all real images at every step. ``engine=closed_form`` solves ridge.

    Metrics: test/accuracy, test/loss, stop/loss. Once, at the end: network/test_accuracy and network/deviation, of
    ``seeds`` networks ("connected" or "convolutional") trained from scratch on the learned images alone. Baselines:
    the same learner and network on random real images, on means of classes (clusters), and on all real images, with
    the test losses of the learner.

    Source: Nguyen, Chen and Lee, 2021; Nguyen, Novak, Xiao and Lee, 2021; Wang et al., 2018.
    """
    if learn not in LEARN:
        raise ValueError(f"task.learn={learn}: choose one of {', '.join(LEARN)}.")
    if network not in NETWORKS:
        raise ValueError(f"task.network={network}: choose one of {', '.join(NETWORKS)}.")
    similar = Kernel(kernel, depth, bias, scale)
    found = data_sets.classification(data, root)
    learned, chosen = (data_sets.count(part, len(found.targets)) for part in (train, stop))
    splits = data_sets.split(found, learned, chosen, 0, seed)
    first = starting_images(start, splits.train, images_per_class, seed)
    labels = np.repeat(np.arange(found.classes), images_per_class)
    represent = representation(features, splits.train, features_steps, seed)
    real, chosen_on, test = (
        (in_blocks(represent, part.inputs), part.targets) if len(part.targets) else (part.inputs, part.targets)
        for part in (splits.train, splits.validation, splits.test)
    )
    learner = Learner(represent, similar, head, penalty)
    fixed = {"images": first, "labels": np.asarray(learner.indicators(labels, found.classes))}
    learner = Learner(represent, similar, head, penalty, fixed)
    recipe = Recipe(network, network_steps, seeds=seeds)
    test_images = pictures(found, splits.test.inputs)

    def outer_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return jnp.mean(batch.weight * learner.cost(learner.outputs(params, hparams, batch[0]), batch[1]))

    def evaluate(params: Params, hparams: HParams) -> dict[str, Scalar]:
        both = learner.outputs(params, hparams, np.concatenate([test[0], chosen_on[0]]))
        number = len(test[1])
        metrics = {
            "test/accuracy": accuracy(both[:number], test[1]),
            "test/loss": jnp.mean(learner.cost(both[:number], test[1])),
        }
        if not len(chosen_on[1]):
            return metrics
        return {**metrics, "stop/loss": jnp.mean(learner.cost(both[number:], chosen_on[1]))}

    def assess(params: Params, hparams: Mapping[str, Any]) -> dict[str, Any]:
        told = learner.targets({name: jnp.asarray(value) for name, value in hparams.items()})
        images = Images(pictures(found, images_of(hparams)), np.asarray(told))
        scores = accuracies(images, (test_images, test[1]), recipe, learner.judge)
        return {"network/test_accuracy": scores.mean(), "network/deviation": scores.std()}

    images_of = lambda hparams: np.asarray(hparams.get("images", first))
    parts = Parts(splits.train, real, chosen_on, test, test_images)
    return Task(
        inner=learner.problem((len(labels), found.classes)),
        outer_loss=outer_loss,
        init_hparams=start_of(learner, learn, first, labels, found.classes),
        batches=minibatches(np.zeros(1), real, 1, batch_size) if batch_size else full_batch((), whole_batch(real)),
        evaluate=evaluate,
        assess=assess,
        baselines=lambda: distillation_baselines.compared(learner, parts, images_per_class, recipe),
        figures=distillation_figures.of(found, images_per_class, images_of, learn),
        precision=precision,
        name="kernel_distillation",
        headline=Headline(
            "test/accuracy",
            against={
                "network/test_accuracy": "of networks trained on them",
                "baseline/random": "with random real images",
                "baseline/means": "with means of classes",
                "baseline/all": f"with all {len(real[1]) + len(chosen_on[1]):,} real images",
            },
        ),
    )
