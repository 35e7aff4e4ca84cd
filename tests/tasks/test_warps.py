"""Random warps: linear in the image, functions of the key, nothing at strength 0, small displacements."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from bilevel.tasks.warps import BEND, SHIFT, places, sampled, warped

KEY = jax.random.key(0)


def test_no_strength_leaves_images_as_they_are():
    images = jax.random.uniform(KEY, (3, 6, 9))
    assert_allclose(warped(KEY, images, 0.0), images, atol=1e-6)


def test_a_warp_is_linear_in_the_image_and_each_image_has_its_own():
    one, other = jax.random.uniform(KEY, (2, 4, 8, 8))
    apart = 2 * warped(KEY, one, 1.0) - 3 * warped(KEY, other, 1.0)
    assert_allclose(warped(KEY, 2 * one - 3 * other, 1.0), apart, atol=1e-5)
    assert_allclose(jax.jit(warped)(KEY, one, 1.0), warped(KEY, one, 1.0), atol=1e-6)
    same = warped(KEY, jnp.broadcast_to(one[0], (4, 8, 8)), 1.0)
    assert len({float(image.sum()) for image in same}) == 4
    assert not np.allclose(warped(jax.random.key(1), one, 1.0), warped(KEY, one, 1.0))


def test_displacements_of_the_middle_have_the_stated_size():
    """The linear map leaves the middle where it is, so the shift and the bend alone move it."""
    shape = (21, 41)
    found = jax.vmap(lambda key: places(key, shape, 1.0)[:, 10, 20])(jax.random.split(KEY, 2000))
    size = np.std(np.asarray(found), axis=0) / np.array(shape)
    assert np.all(size > SHIFT * 0.95) and np.all(size < 1.05 * np.hypot(SHIFT, BEND))
    assert_allclose(found.mean(axis=0), [10, 20], atol=0.1)


def test_a_ramp_is_sampled_where_it_is_asked():
    ramp = jnp.arange(5.0)[:, None] + 10 * jnp.arange(4.0)
    assert_allclose(sampled(ramp, jnp.array([[[1.5]], [[2.25]]])), [[24.0]])
