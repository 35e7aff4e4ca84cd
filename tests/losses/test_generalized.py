"""The ready-made losses: their curvature is their second derivative, and their minimisers are scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO
from numpy.testing import assert_allclose
from sklearn import linear_model, svm

import bilevel as bl

N, P, ALPHA = 60, 4, 0.7
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, P))
NOISY = X @ np.array([1.0, -2.0, 0.0, 0.5]) + 0.5 * RNG.standard_normal(N) + 0.3
BINARY = (NOISY > 0.5).astype(int)
CLASSES = np.digitize(NOISY, [-1.0, 1.5])
COUNTS = RNG.poisson(np.exp(0.3 * X[:, 0] + 0.4))
WEIGHTS = RNG.uniform(0.2, 2.0, N)
LOSSES = {
    "squared": (bl.losses.squared, NOISY),
    "logistic": (bl.losses.logistic, BINARY),
    "multinomial": (bl.losses.multinomial, CLASSES),
    "squared_hinge": (bl.losses.squared_hinge, BINARY),
    "huber": (bl.losses.huber, NOISY),
    "quantile": (lambda **terms: bl.losses.quantile(0.3, 0.5, **terms), NOISY),
    "poisson": (bl.losses.poisson, COUNTS),
}


def minimiser(loss, targets, weights=WEIGHTS, classes=0, penalty=None, inputs=X, width=P + 1):
    penalty = bl.Zero() if penalty is None else penalty
    shape = (width, classes) if classes else (width,)
    inner = bl.InnerProblem(loss, init=lambda key, hparams: jnp.zeros(shape), penalty=penalty)
    solution = inner.solve(None, (jnp.asarray(inputs), jnp.asarray(targets), jnp.asarray(weights)))
    assert solution.status.ok, solution.status.name
    return np.asarray(solution.params)


def assert_same(found, estimator, rtol=1e-6):
    """The rows of the params are the coefficients, and the last one the intercept."""
    coef, intercept = np.atleast_2d(estimator.coef_), np.atleast_1d(estimator.intercept_)
    expected = np.vstack([coef.T, intercept]).reshape(found.shape)
    assert_allclose(found, expected, rtol=rtol, atol=rtol)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_declared_curvature_is_the_second_derivative(name, reduction):
    make, targets = LOSSES[name]
    loss = make(reduction=reduction, ridge=ALPHA)
    params = RNG.standard_normal((P + 1, 3) if name == "multinomial" else P + 1)
    batch = (X, targets, WEIGHTS)
    z = loss.design(batch) @ params
    declared = loss.curvature(z, params, None, batch)
    full = jax.hessian(lambda z: loss.loss(z, params, None, batch))(z)
    places = np.arange(N)
    assert_allclose(declared, full[places, ..., places] if z.ndim == 1 else full[places, :, places, :], atol=1e-13)


@pytest.mark.slow
def test_ridge():
    loss = bl.losses.squared(ridge=lambda h: ALPHA, reduction="sum")
    assert_same(minimiser(loss, NOISY), linear_model.Ridge(alpha=ALPHA, tol=1e-12).fit(X, NOISY, WEIGHTS))


@pytest.mark.slow
@pytest.mark.parametrize("share", [pytest.param(1.0, marks=pytest.mark.slow), 0.4])
def test_lasso_and_elastic_net(share):
    off = np.append(np.ones(P), 0.0)
    penalty = bl.ElasticNet(l1=0.2 * share * off, l2=0.2 * (1 - share) * off)
    estimator = linear_model.ElasticNet(alpha=0.2, l1_ratio=share, tol=1e-12, max_iter=10**6)
    assert_same(minimiser(bl.losses.squared(), NOISY, penalty=penalty), estimator.fit(X, NOISY, WEIGHTS))


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 0.5, 1: 3.0}])
def test_logistic_regression(class_weight):
    given = [0.5, 3.0] if isinstance(class_weight, dict) else class_weight or 1.0
    loss = bl.losses.logistic(
        ridge=1 / ALPHA, reduction="sum", class_weight=np.array(given) if given != "balanced" else given
    )
    estimator = linear_model.LogisticRegression(C=ALPHA, tol=1e-12, max_iter=10**4, class_weight=class_weight)
    assert_same(minimiser(loss, BINARY), estimator.fit(X, BINARY, WEIGHTS))


@pytest.mark.slow
def test_multinomial_logistic_regression():
    loss = bl.losses.multinomial(ridge=1 / ALPHA, reduction="sum", class_weight="balanced")
    estimator = linear_model.LogisticRegression(C=ALPHA, tol=1e-12, max_iter=10**4, class_weight="balanced")
    estimator.fit(X, CLASSES, WEIGHTS)
    found = minimiser(loss, CLASSES, classes=3).copy()
    found[-1] -= found[-1].mean()
    estimator.intercept_ = np.asarray(estimator.intercept_) - np.mean(estimator.intercept_)
    assert_same(found, estimator)


@pytest.mark.slow
def test_linear_svc():
    ones = np.hstack([X, np.ones((N, 1))])  # its intercept is a coefficient like the others
    loss = bl.losses.squared_hinge(
        intercept=False, ridge=1 / ALPHA, reduction="sum", class_weight=jnp.array([1.0, 2.0])
    )
    estimator = svm.LinearSVC(C=ALPHA, tol=1e-12, max_iter=10**6, dual="auto", class_weight={1: 2.0})
    assert_same(minimiser(loss, BINARY, inputs=ones), estimator.fit(X, BINARY, WEIGHTS))


@pytest.mark.slow
def test_huber_regressor():
    estimator = linear_model.HuberRegressor(epsilon=1.5, alpha=ALPHA, tol=1e-10, max_iter=10**4)
    estimator.fit(X, NOISY, WEIGHTS)
    loss = bl.losses.huber(1.5 * estimator.scale_, ridge=ALPHA * estimator.scale_, reduction="sum")
    assert_same(minimiser(loss, NOISY), estimator)


@pytest.mark.slow
def test_poisson_regressor():
    estimator = linear_model.PoissonRegressor(alpha=ALPHA, solver="newton-cholesky", tol=1e-12)
    assert_same(minimiser(bl.losses.poisson(ridge=ALPHA), COUNTS), estimator.fit(X, COUNTS, WEIGHTS))


@pytest.mark.slow
def test_quantile_regression_is_the_limit_of_a_small_width():
    estimator = linear_model.QuantileRegressor(quantile=0.3, alpha=0.0).fit(X, NOISY, WEIGHTS)
    expected = np.append(estimator.coef_, estimator.intercept_)
    errors = [
        np.max(np.abs(minimiser(bl.losses.quantile(0.3, width), NOISY) - expected)) for width in (1e-1, 1e-2, 1e-3)
    ]
    assert errors[2] < 2e-3 and errors[2] < 0.2 * errors[1] < 0.1 * errors[0]


@pytest.mark.slow
def test_crammer_singer():
    answers = np.eye(3)[CLASSES]
    inner = bl.InnerProblem(
        bl.losses.crammer_singer(ALPHA),
        init=lambda key, hparams: jnp.full((N, 3), 1 / 3),
        constraint=bl.Simplex(),
        solver=bl.ActiveSetNewton(tol=1e-12),
    )
    dual = inner.solve(None, (jnp.asarray(X.T), jnp.asarray(answers))).params
    found = bl.losses.crammer_singer_weights(dual, X.T, answers, ALPHA)
    estimator = svm.LinearSVC(
        C=1 / ALPHA, multi_class="crammer_singer", fit_intercept=False, tol=1e-10, max_iter=10**6
    ).fit(X, CLASSES)
    assert_allclose(found, estimator.coef_.T, atol=1e-6)


@pytest.mark.slow
def test_c_support_vector_machine():
    signs, gram = 2.0 * BINARY - 1, X @ X.T
    inner = bl.InnerProblem(
        bl.losses.c_svm,
        init=lambda key, hparams: jnp.zeros(N),
        constraint=bl.BoxSection(lower=0.0, upper=ALPHA * WEIGHTS, weights=signs, total=0.0),
    )
    dual = inner.solve(None, (jnp.asarray(gram), jnp.asarray(signs))).params
    estimator = svm.SVC(C=ALPHA, kernel="linear", tol=1e-9).fit(X, BINARY, WEIGHTS)
    assert_allclose((signs * dual) @ X, estimator.coef_[0], atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_of_zero_is_a_sample_that_is_not_there(name):
    make, targets = LOSSES[name]
    loss, params = make(), np.linspace(-1, 1, P + 1)
    params = np.stack([params, -params, params**2], 1) if name == "multinomial" else params
    some = loss(params, None, (X[:40], targets[:40], WEIGHTS[:40]))
    assert_allclose(loss(params, None, (X, targets, WEIGHTS * (np.arange(N) < 40))), some, rtol=1e-13)


@pytest.mark.slow
def test_sparse_inputs_and_other_types():
    thin = X * (np.abs(X) > 0.5)
    sparse = BCOO.from_scipy_sparse(scipy.sparse.csr_matrix(thin))
    params, loss = np.linspace(-1, 1, P + 1), bl.losses.logistic()
    assert_allclose(loss(params, None, (sparse, BINARY)), loss(params, None, (thin, BINARY)), rtol=1e-14)
    with jax.enable_x64(False):
        single = loss(jnp.asarray(params, jnp.float32), None, (jnp.asarray(thin, jnp.float32), BINARY))
        assert single.dtype == jnp.float32
    ones = bl.HostMatrix(scipy.sparse.csr_matrix(thin))
    with pytest.raises(ValueError, match="intercept=False"):
        loss(params, None, (ones, BINARY))
    assert_allclose(
        bl.losses.logistic(intercept=False)(params[:-1], None, (ones, BINARY)),
        bl.losses.logistic(intercept=False)(params[:-1], None, (thin, BINARY)),
        rtol=1e-14,
    )


def test_weights_may_be_hyperparameters():
    loss = bl.losses.logistic(weight=jax.nn.sigmoid, class_weight="balanced")
    slope = jax.grad(lambda h: loss(np.linspace(-1, 1, P + 1), h, (X, BINARY)))(jnp.zeros(N))
    assert np.all(np.isfinite(slope)) and np.any(slope)


@pytest.mark.parametrize("name", ["logistic", "multinomial", "squared_hinge"])
def test_a_label_that_is_no_class_is_nan(name):
    params = np.zeros((P + 1, 2)) if name == "multinomial" else np.zeros(P + 1)
    assert np.isnan(LOSSES[name][0]()(params, None, (X, np.full(N, -1))))


def test_wrong_statements_are_refused():
    with pytest.raises(ValueError, match="choose one of mean, sum"):
        bl.losses.squared(reduction="none")
    with pytest.raises(ValueError, match="an entry for each class"):
        bl.losses.logistic(class_weight={0: 1.0})
    with pytest.raises(ValueError, match="'balanced'"):
        bl.losses.logistic(class_weight="even")
    with pytest.raises(ValueError, match="targets of the shape"):
        bl.losses.squared()(np.zeros(P + 1), None, (X, NOISY[:, None]))
