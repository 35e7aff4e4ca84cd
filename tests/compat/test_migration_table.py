"""docs/migrating-from-jaxopt.md: each public name of JAXopt 0.8.5 has a row, and what the row names is there."""

import re
from pathlib import Path

import jax
import optax
import pytest

import bilevel as bl
from bilevel.compat import jaxopt
from bilevel.compat.jaxopt.notices import UNUSED

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "migrating-from-jaxopt.md").read_text()
ROW = re.compile(r"^\| `(jaxopt\.[\w.]+)` \| ?([^|]*)\| (.*) \|$", re.MULTILINE)
ROWS = {name: (here, other) for name, here, other in ROW.findall(PAGE)}

# The public names of jaxopt 0.8.5, as it exports them (dir() of the package and its modules, without what they import).
NAMES = {
    "": "AndersonAcceleration AndersonWrapper ArmijoSGD BFGS BacktrackingLineSearch Bisection BlockCoordinateDescent "
    "BoxCDQP BoxOSQP Broyden CvxpyQP EqualityConstrainedQP FixedPointIteration GaussNewton GradientDescent "
    "HagerZhangLineSearch IterativeRefinement LBFGS LBFGSB LevenbergMarquardt MirrorDescent NonlinearCG OSQP OptStep "
    "OptaxSolver PolyakSGD ProjectedGradient ProximalGradient ScipyBoundedLeastSquares ScipyBoundedMinimize "
    "ScipyLeastSquares ScipyMinimize ScipyRootFinding ZoomLineSearch",
    "base": "AutoOrBoolean IterativeSolver KKTSolution LinearOperator OptStep StochasticSolver",
    "implicit_diff": "custom_fixed_point custom_root root_jvp root_vjp",
    "projection": "kl_projection_birkhoff kl_projection_transport projection_affine_set projection_birkhoff "
    "projection_box projection_box_section projection_halfspace projection_hypercube projection_hyperplane "
    "projection_l1_ball projection_l1_sphere projection_l2_ball projection_l2_sphere projection_linf_ball "
    "projection_non_negative projection_polyhedron projection_simplex projection_sparse_simplex projection_transport",
    "prox": "make_prox_from_projection prox_elastic_net prox_group_lasso prox_lasso prox_non_negative_lasso "
    "prox_non_negative_ridge prox_none prox_ridge",
    "linear_solve": "solve_bicgstab solve_cg solve_cholesky solve_gmres solve_inv solve_iterative_refinement solve_lu "
    "solve_normal_cg solve_qr",
    "objective": "CompositeLinearFunction binary_logreg l2_multiclass_logreg l2_multiclass_logreg_with_intercept "
    "least_squares multiclass_linear_svm_dual multiclass_logreg multiclass_logreg_with_intercept ridge_regression",
    "loss": "binary_hinge_loss binary_logistic_loss binary_perceptron_loss binary_sparsemax_loss huber_loss "
    "make_fenchel_young_loss multiclass_hinge_loss multiclass_logistic_loss multiclass_perceptron_loss "
    "multiclass_sparsemax_loss sparse_plus sparse_sigmoid",
    "perturbations": "Gumbel Normal make_perturbed_argmax make_perturbed_fun make_perturbed_max",
    "isotonic": "isotonic_l2_pav",
    "tree_util": "broadcast_pytrees tree_add tree_add_scalar_mul tree_conj tree_div tree_dot tree_imag tree_inf_norm "
    "tree_l2_norm tree_map tree_mul tree_negative tree_ones_like tree_real tree_reduce tree_scalar_mul tree_sub "
    "tree_sum tree_vdot tree_vdot_real tree_where tree_zeros_like",
    "loop": "while_loop",
    "cond": "cond",
}
PUBLIC = {".".join(filter(None, ("jaxopt", module, name))) for module, names in NAMES.items() for name in names.split()}


def test_each_public_name_has_a_row():
    assert set(ROWS) == PUBLIC


@pytest.mark.parametrize("name", sorted(ROWS))
def test_what_a_row_names_is_there(name):
    """The first column is a name of the package, and each piece of code in the third one runs."""
    assert eval(name, {"jaxopt": jaxopt}) is not None
    _, other = ROWS[name]
    written = re.findall(r"`([^`]+)`", other)
    assert written or other == "no other name", "a row says what there is"
    for code in written:
        if not code.startswith("condition="):
            assert eval(code, {"bl": bl, "jax": jax, "optax": optax}) is not None


def test_a_setting_without_a_counterpart_is_described():
    for name in jaxopt.__all__:
        for setting in getattr(getattr(jaxopt, name), "unused", ()):
            assert setting in UNUSED, f"{name}({setting}=)"
