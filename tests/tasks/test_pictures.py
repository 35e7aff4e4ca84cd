"""Figures: one mark for each thing shown."""

import numpy as np
from matplotlib.patches import Rectangle

from bilevel.tasks import pictures


def rectangles(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_bars_start_at_the_origin():
    axes = pictures.bars(["a", "b"], np.array([-3.0, 1.0]), "value", origin=-2.0).axes[0]
    assert [(bar.get_x() + min(bar.get_width(), 0), abs(bar.get_width())) for bar in rectangles(axes)] == [
        (-3, 1),
        (-2, 3),
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_gallery_shows_every_image_once():
    images = np.arange(5.0)[:, None, None] * np.ones((5, 2, 2))
    shown = [axes for axes in pictures.gallery(images, list("abcde"), columns=3).axes if axes.images]
    assert [axes.get_title() for axes in shown] == list("abcde")
    assert [float(np.max(np.asarray(axes.images[0].get_array()))) for axes in shown] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_histogram_counts_every_value():
    axes = pictures.histogram({"one": np.linspace(0, 1, 7), "two": np.ones(4)}, "value").axes[0]
    assert sum(bar.get_height() for bar in rectangles(axes)) == 11


def test_heatmap_keeps_the_values():
    image = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(pictures.heatmap(image, "value").axes[0].images[0].get_array(), image)


def test_bars_leave_no_more_room_for_many_than_for_few():
    for number in (2, 80):
        (axes,) = pictures.bars([str(one) for one in range(number)], np.ones(number), "value").axes
        assert axes.get_ylim() == (number - 0.5, -0.5)
