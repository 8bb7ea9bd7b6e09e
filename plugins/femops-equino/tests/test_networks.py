"""The networks of the EquiNO plugin: derivatives, linear limits, training, and going on after a stop."""

from functools import partial

import numpy as np
import pytest
from equino_cases import StoppedError

from femops.devices.torch_library import torch
from femops.phases.elastic import Elastic
from femops.phases.saturating import Saturating
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops.surrogate.learning.loop import Schedule
from femops_equino.networks import torch_networks
from femops_equino.networks.evaluation import (
    FLOOR,
    evaluate_coefficients,
    evaluate_potential,
    expansion,
    prepare,
)
from femops_equino.networks.training import (
    CoefficientLabels,
    PotentialLabels,
    TrainingOptions,
    train_coefficients,
    train_potential,
)
from femops_equino.original import training
from femops_equino.original.networks import evaluate_original

func = torch.func  # by reverse modes alone: the first use of its forward mode warns
MATRIX = Saturating(4780.0, 50.0, 0.06)
SHORT = TrainingOptions(Schedule(20, 3e-3, save_every=10, lbfgs_steps=20), width=8, n_norms=1, batch=32)


def quiet(stage, done, total, note=""):
    pass


def reported(memory=None, progress=quiet):
    return "network", memory or MemoryCheckpoint(), progress


def schedule(adam_steps, lbfgs_steps):
    return Schedule(adam_steps, 3e-3, save_every=100, lbfgs_steps=lbfgs_steps)


def spd(n, seed=0):
    root = np.random.default_rng(seed).standard_normal((n, n))
    return 1000.0 * (root @ root.T + np.eye(n))


def strains(n, n_s, seed=1):
    return np.random.default_rng(seed).uniform(-0.04, 0.04, (n, n_s))


def random_potential(n_s, width=10, n_norms=2):
    return torch_networks.initial_weights(spd(n_s), np.full(n_s, 0.04), np.array(3.0), width, n_norms, seed=3)


def random_coefficients(n_s, n_out=7):
    linear = np.random.default_rng(5).standard_normal((n_out, n_s))
    return torch_networks.initial_weights(linear, np.full(n_s, 0.04), np.linspace(0.5, 2.0, n_out), 12, 2, seed=4)


def matrix_labels(n, seed=1):
    strain = strains(n, 3, seed)
    answer = MATRIX.evaluate(strain.T, np.zeros((0, n)))
    return PotentialLabels(strain, MATRIX.energy(strain.T, None), answer.stress.T, answer.tangent.transpose(2, 0, 1))


def matrix_stiffness():
    return MATRIX.evaluate(np.zeros((3, 1)), np.zeros((0, 1))).tangent[:, :, 0]


def hessian(function):
    return func.jacrev(func.grad(function))


def plain_inputs(weights, strain):
    x = strain / weights["scale"]
    rho = torch.sqrt(((weights["metric"] @ x) ** 2).sum(1) + FLOOR**2)
    return torch.cat([x, rho - FLOOR])


def plain_network(weights, z):
    hidden = torch.nn.functional.silu(weights["weight_1"] @ z + weights["bias_1"])
    return weights["weight_3"] @ torch.nn.functional.silu(weights["weight_2"] @ hidden + weights["bias_2"])


def plain_potential(weights, strain):
    """The energy of one strain, as the formulas of `evaluation` have it."""
    z = plain_inputs(weights, strain)
    zero = torch.zeros_like(z)

    def network(z):
        return plain_network(weights, z)[0]

    taylor = network(zero) + z @ func.grad(network)(zero) + 0.5 * z @ hessian(network)(zero) @ z
    return 0.5 * strain @ weights["linear"] @ strain + weights["unit"] * (network(z) - taylor)


def plain_coefficients(weights, strain):
    """The coefficients of one strain, as the formulas of `evaluation` have it."""
    z = plain_inputs(weights, strain)
    zero, network = torch.zeros_like(z), partial(plain_network, weights)
    taylor = network(zero) + func.jacrev(network)(zero) @ z
    return weights["linear"] @ strain + weights["unit"] * (network(z) - taylor)


def derived(weights, strain, plain, *derivatives):
    """The values of a plain network at strains (n, n_s), and derivatives by `torch.func`."""
    own = partial(plain, weights)
    return [func.vmap(one)(strain) for one in (own, *(derivative(own) for derivative in derivatives))]


def gradients(weights, values):
    """The gradients in the weights of a loss of a network's values and derivatives."""
    tensors = torch_networks.as_tensors(weights)
    trained = [tensors[name].requires_grad_() for name in torch_networks.TRAINED]
    loss = sum(((one / one.detach().abs().max()) ** 2).sum() for one in values(tensors))
    return torch.autograd.grad(loss, trained)


@pytest.mark.parametrize("n_s", [3, 6])
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_potential_kernel_gives_the_derivatives_of_automatic_differentiation(n_s, precision, tolerance):
    weights, strain = random_potential(n_s), strains(150, n_s)
    tensors = torch_networks.as_tensors(weights)
    expected = derived(tensors, torch.tensor(strain), plain_potential, func.grad, hessian)
    for got, wanted in zip(evaluate_potential(prepare(weights, precision), strain), expected, strict=True):
        assert got.dtype == precision
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.parametrize("n_s", [3, 6])
@pytest.mark.parametrize(
    ("random", "network", "plain"),
    [
        (random_potential, torch_networks.potential, (plain_potential, func.grad, hessian)),
        (random_coefficients, torch_networks.coefficients, (plain_coefficients, func.jacrev)),
    ],
)
def test_values_and_gradients_of_a_training_step_are_those_of_automatic_differentiation(n_s, random, network, plain):
    weights, strain = random(n_s), torch.tensor(strains(30, n_s))
    steps = (lambda given: network(given, strain, expansion(given)), lambda given: derived(given, strain, *plain))
    tensors = torch_networks.as_tensors(weights)
    pairs = [*zip(*(step(tensors) for step in steps), strict=True)]
    pairs += zip(*(gradients(weights, step) for step in steps), strict=True)
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12 * wanted.abs().max())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_potential_in_torch_gives_what_the_kernel_gives(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no accelerator")
    weights, strain = random_potential(3), strains(70, 3)
    found = torch_networks.evaluate_potential(*torch_networks.on_device(weights, device), strain)
    for got, wanted in zip(found, evaluate_potential(prepare(weights), strain), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-11 * np.abs(wanted).max())


def test_points_do_not_depend_on_their_neighbours():
    net, strain = prepare(random_potential(3)), strains(131, 3)
    whole = evaluate_potential(net, strain)
    for got, wanted in zip(evaluate_potential(net, strain[97:100]), whole, strict=True):
        np.testing.assert_array_equal(got, wanted[97:100])
    assert [len(one) for one in evaluate_potential(net, strain[:0])] == [0, 0, 0]


@pytest.mark.parametrize("n_s", [3, 6])
def test_any_potential_is_exactly_linear_elastic_at_zero_strain(n_s):
    weights = random_potential(n_s)
    energy, stress, tangent = evaluate_potential(prepare(weights), np.zeros((1, n_s)))
    np.testing.assert_allclose(tangent[0], weights["linear"], rtol=1e-10)
    assert abs(energy[0]) < 1e-12 and np.abs(stress).max() < 1e-10


@pytest.mark.parametrize("n_out", [1, 7])
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_coefficient_kernel_gives_what_torch_gives(precision, tolerance, n_out):
    weights, strain = random_coefficients(3, n_out), strains(150, 3)
    (wanted,) = derived(torch_networks.as_tensors(weights), torch.tensor(strain), plain_coefficients)
    got = evaluate_coefficients(prepare(weights, precision), strain, n_out)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


def test_sensitivities_are_exact_at_zero_strain():
    tensors = torch_networks.as_tensors(random_coefficients(6))
    _, at_zero = torch_networks.coefficients(tensors, torch.zeros(1, 6, dtype=torch.float64), expansion(tensors))
    np.testing.assert_allclose(at_zero[0], tensors["linear"], rtol=1e-10, atol=1e-10)


def test_trained_potential_reproduces_the_saturating_law():
    options = TrainingOptions(schedule(200, 200), width=16, batch=128)
    trained = train_potential(matrix_stiffness(), matrix_labels(400), options, *reported())
    unseen = matrix_labels(200, seed=2)
    _, stress, tangent = evaluate_potential(prepare(trained.weights), unseen.strain)
    wrong = np.linalg.norm(stress - unseen.stress, axis=1) / np.linalg.norm(unseen.stress, axis=1)
    off = np.linalg.norm(tangent - unseen.tangent, axis=(1, 2)) / np.linalg.norm(unseen.tangent, axis=(1, 2))
    assert np.median(wrong) < 2e-4
    assert np.median(off) < 1e-3
    assert np.linalg.eigvalsh(tangent).min() > 0.0


def test_trained_coefficients_reproduce_a_smooth_map():
    matrix = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]]) / 0.04

    def labels(n, seed):
        strain = strains(n, 3, seed)
        values = np.sinh(strain @ matrix.T)
        return CoefficientLabels(strain, values, np.cosh(strain @ matrix.T)[:, :, None] * matrix, np.diag([1.0, 2.0]))

    options = TrainingOptions(schedule(200, 200), width=16, batch=128)
    trained = train_coefficients(matrix, labels(500, 1), options, *reported())
    unseen = labels(200, 2)
    assert np.linalg.norm(unseen.strain @ matrix.T - unseen.values) > 0.1 * np.linalg.norm(unseen.values)
    found = evaluate_coefficients(prepare(trained.weights), unseen.strain, 2)
    assert np.linalg.norm(found - unseen.values) < 2e-3 * np.linalg.norm(unseen.values)


@pytest.mark.parametrize("stop_at", [10, 30])
def test_training_that_was_stopped_ends_with_the_same_weights_as_one_that_was_not(stop_at):
    def stopping(stage, done, total, note=""):
        if done == stop_at:
            raise StoppedError

    labels, memory = matrix_labels(64), MemoryCheckpoint()
    whole = train_potential(matrix_stiffness(), labels, SHORT, *reported())
    with pytest.raises(StoppedError):
        train_potential(matrix_stiffness(), labels, SHORT, *reported(memory, stopping))
    resumed = train_potential(matrix_stiffness(), labels, SHORT, *reported(memory))
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    for name, one in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], one, err_msg=name)


def layered_problem():
    """Two layers in series, whose exact fields are constant in each: one strain mode per component that may jump.

    Layers normal to x: ε_22 is common, σ_11 and σ_12 are. The fluctuation strains are (+1, −1) in ε_11 and ε_12, the
    stress modes constant σ_11, constant σ_12 and σ_22 of each layer.
    """
    strain_modes, stress_modes = np.zeros((3, 2, 2)), np.zeros((3, 2, 4))
    for k, row in enumerate((0, 2)):
        strain_modes[row, :, k] = 1.0, -1.0
        stress_modes[row, :, k] = 1.0
    stress_modes[1, 0, 2] = stress_modes[1, 1, 3] = 1.0
    return training.OriginalProblem(
        strain_modes,
        stress_modes,
        weight=np.array([0.5, 0.5]),
        volume=1.0,
        phases=(Elastic(5000.0, 1500.0), MATRIX),
        points_of_phase=(slice(0, 1), slice(1, 2)),
        strain=strains(128, 3),
        displacement_unit=np.full(2, 0.02),
        stress_unit=np.array([150.0, 30.0, 150.0, 150.0]),
    )


@pytest.mark.parametrize("norm", ["energy", "plain"])
def test_mismatch_of_a_laminate_leads_to_its_exact_fields(norm):
    problem = layered_problem()
    options = training.OriginalOptions(schedule(300, 300), width=16, depth=2, n_points=4, norm=norm)
    weights = training.train_original(problem, options, *reported()).weights
    strain = strains(50, 3, seed=2)
    answer = evaluate_original(weights, strain)
    jump = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]) @ answer.displacement.T
    state = np.zeros((0, 50))
    first, second = (
        phase.evaluate(strain.T + sign * jump, state).stress
        for phase, sign in zip(problem.phases, (1.0, -1.0), strict=True)
    )
    size = np.abs(first).max()
    assert np.abs((first - second)[[0, 2]]).max() < 0.03 * size
    np.testing.assert_allclose(answer.stress, 0.5 * (first + second).T, rtol=0, atol=0.02 * size)


def test_tangent_of_the_original_networks_is_the_derivative_of_their_stress():
    options = training.OriginalOptions(schedule(2, 0), width=8, n_points=2, batch=8)
    weights = training.train_original(layered_problem(), options, *reported()).weights
    strain, step = strains(5, 3), 1e-6
    tangent = evaluate_original(weights, strain).tangent
    for k, change in enumerate(step * np.eye(3)):
        ahead, behind = (evaluate_original(weights, strain + sign * change).stress for sign in (1.0, -1.0))
        np.testing.assert_allclose(tangent[:, :, k], (ahead - behind) / (2.0 * step), rtol=1e-6, atol=1e-4)
