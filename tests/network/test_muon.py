"""Orthogonalized updates, against singular value decompositions by NumPy."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10.network import model, muon, optimizer, recipes


def five_iterations(matrix):
    """Returns U p(S) V^T in float64, p being 3.4445 s - 4.7750 s^3 + 2.0315 s^5 five times, from s / |s| on."""
    u, s, vt = np.linalg.svd(np.float64(matrix), full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vt


def matrix_with(singular_values, m, n, seed=0):
    rng = np.random.RandomState(seed)
    k = len(singular_values)
    u, v = (np.linalg.qr(rng.randn(size, k))[0] for size in (m, n))
    return np.float32((u * singular_values) @ v.T)


def run(tensor):
    with tf.Session() as session:
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        return session.run(tensor)


@pytest.mark.parametrize(("m", "n"), [(75, 64), (64, 64), (40, 96)])
@pytest.mark.parametrize("smallest", [1.0, 1e-1, 1e-3])
def test_each_singular_value_goes_through_the_polynomial(graph, m, n, smallest):
    matrix = matrix_with(np.geomspace(smallest, 1.0, min(m, n)) * 7.0, m, n)
    found = run(muon.orthogonalized(tf.constant(matrix)))
    np.testing.assert_allclose(found, five_iterations(matrix), atol=2e-3)


def test_singular_values_above_a_hundredth_of_the_norm_become_about_one(graph):
    """Between the least and the largest value that the iterations have for numbers from 0.01 to 1: 0.68 and 1.13."""
    matrix = matrix_with(np.geomspace(4e-2, 1.0, 64), 200, 64)
    found = np.linalg.svd(run(muon.orthogonalized(tf.constant(matrix))), compute_uv=False)
    assert found.min() >= 0.67 and found.max() <= 1.14


def test_of_several_matrices_each_is_orthogonalized_for_itself(graph):
    matrices = np.stack([matrix_with([1.0, 2.0, 3.0], 9, 3, seed) for seed in range(4)])
    found = run(muon.orthogonalized(tf.constant(matrices)))
    for one, matrix in zip(found, matrices, strict=True):
        np.testing.assert_allclose(one, five_iterations(matrix), atol=2e-3)


def test_a_wide_matrix_is_orthogonalized_in_parts(graph, monkeypatch):
    monkeypatch.setattr(muon, "LARGEST_GRAM", 16)
    matrix = matrix_with(np.linspace(1.0, 2.0, 48), 60, 48)
    expected = np.concatenate([five_iterations(part) for part in np.split(matrix, 3, axis=1)], axis=1)
    np.testing.assert_allclose(run(muon.orthogonalized(tf.constant(matrix))), expected, atol=2e-3)


def test_no_update_of_a_matrix_of_zeros(graph):
    np.testing.assert_array_equal(run(muon.orthogonalized(tf.zeros([5, 3]))), np.zeros([5, 3]))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("tutorial", {"conv1": [75, 64], "conv2": [1600, 64], "local3": [2304, 384], "local4": [384, 192]}),
        (
            "cuda_convnet",
            {"conv1": [75, 64], "conv2": [1600, 64], "local3": [6, 6, 576, 64], "local4": [6, 6, 576, 32]},
        ),
    ],
)
def test_the_matrices_are_those_of_the_hidden_layers(graph, network, expected):
    model.Network(network)(tf.zeros([2, 24, 24, 3]))
    found = {variable.op.name: muon.shape_of_matrices(variable) for variable in tf.trainable_variables()}
    expected = {f"{layer}/weights": shape for layer, shape in expected.items()}
    assert {name: shape for name, shape in found.items() if shape} == expected and len(found) == 10


def test_steps_are_momentum_orthogonalized_with_decay_of_its_own(graph):
    """Nesterov: m = 0.9 m + g, w = w - lr (ortho(g + 0.9 m) + decay w), g being that of the cross entropy alone.

    The biases, which are no matrix, go on as without; the last layer's weights too, with the other weight decay.
    """
    rng = np.random.RandomState(0)
    initial = {
        "conv1/weights": rng.randn(2, 2, 3, 5),
        "local3/weights": rng.randn(7, 4),
        "local3/biases": rng.randn(4),
        "softmax_linear/weights": rng.randn(4, 3),
    }
    targets = {name: rng.randn(*value.shape) for name, value in initial.items()}
    variables = [
        tf.get_variable(name, initializer=np.float32(value), use_resource=True) for name, value in initial.items()
    ]
    weight_loss = 0.3 * tf.nn.l2_loss(variables[1])
    gradients = [variable - np.float32(targets[variable.op.name]) for variable in variables]
    gradients[1] += 0.3 * variables[1]  # as the total loss has it
    recipe = recipes.Recipe("", momentum=0.9, weight_decay=0.02, orthogonalized=True, orthogonal_decay=0.25)
    tagged = {"local3/weight_loss": weight_loss, "total_loss": tf.constant(1.0)}
    step = tf.train.get_or_create_global_step()
    train_op = optimizer.apply_gradients(gradients, tagged, step, tf.constant(0.1), recipe)
    w, m = dict(initial), dict.fromkeys(initial, 0.0)
    with tf.Session() as session:
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        for _ in range(3):
            session.run(train_op)
            for name, value in w.items():
                g = value - targets[name] + (0.02 * value if name.startswith("softmax") else 0.0)
                m[name] = 0.9 * m[name] + g
                ahead = g + 0.9 * m[name]
                if name in ("conv1/weights", "local3/weights"):
                    ortho = five_iterations(ahead.reshape(-1, value.shape[-1])).reshape(value.shape)
                    w[name] = value - 0.1 * (ortho + 0.25 * value)
                else:
                    w[name] = value - 0.1 * ahead
            for variable, found in zip(variables, session.run(variables), strict=True):
                np.testing.assert_allclose(found, w[variable.op.name], atol=1e-3, err_msg=variable.op.name)
        momenta = {variable.op.name: value for variable, value in _values(session, tf.local_variables())}
    for name, value in m.items():
        np.testing.assert_allclose(momenta[f"{name}/Momentum"], value, atol=3e-3)


def _values(session, variables):
    return zip(variables, session.run(variables), strict=True)


def test_a_step_that_overflows_changes_nothing(graph):
    """A step, one that is not finite, a step: as if the one between had not been."""
    found = []
    for sequence in ([True, False, True], [True, True]):
        with tf.Graph().as_default(), tf.Session() as session:
            value = np.float32(np.random.RandomState(0).randn(6, 4))
            weights = tf.get_variable("local3/weights", initializer=value, use_resource=True)
            finite = tf.placeholder(tf.bool, [])
            gradient = tf.where_v2(finite, weights, tf.zeros_like(weights))
            step = tf.train.get_or_create_global_step()
            train_op = optimizer.apply_gradients(
                [gradient], {"total_loss": tf.constant(1.0)}, step, tf.constant(0.1), recipes.MUON, finite
            )
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            for each in sequence:
                session.run(train_op, {finite: each})
            found.append(session.run([weights, *tf.local_variables()]))
    assert not np.array_equal(found[0][0], value)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
