"""The exported law behind the interfaces of other codes, called as those call it."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
from compiled import built, exported, pointer, symbols

from femops import load_law

CORRECTIONS = 4  # whose rows of 33 are the derivatives of their stresses
# Components of the law at the positions of MFront, 33 of plane strain last.
MFRONT = {2: [0, 1, 3, 2], 3: [0, 1, 2, 5, 4, 3]}
SQRT2 = np.sqrt(2.0)


class _State(ctypes.Structure):
    _fields_ = [(str(i), ctypes.c_void_p) for i in range(8)]


class _View(ctypes.Structure):
    _fields_ = [
        ("error_message", ctypes.c_char_p),
        ("dt", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("K", "rdt", "speed_of_sound")),
        *((name, _State) for name in ("s0", "s1")),
    ]


@pytest.fixture(scope="module", params=[2, 3])
def dim(request):
    return request.param


@pytest.fixture(scope="module")
def model(anisotropic, dim):
    return anisotropic[dim]


@pytest.fixture(scope="module")
def law(model, dim):
    return load_law({"law": "equino", "model": str(model), "corrections": CORRECTIONS, "device": "cpu"}, dim=dim)


@pytest.fixture(scope="module")
def mgis_folder(model, compiler, tmp_path_factory):
    return exported(model, tmp_path_factory.mktemp("mgis") / "rve", "mgis", CORRECTIONS)


@pytest.fixture(scope="module")
def mgis(mgis_folder, compiler):
    return built(mgis_folder, compiler=compiler)


@pytest.fixture(scope="module")
def umat_folder(model, compiler, tmp_path_factory):
    return exported(model, tmp_path_factory.mktemp("umat") / "rve", "umat", CORRECTIONS)


@pytest.fixture(scope="module")
def umat(umat_folder, compiler):
    return built(umat_folder, compiler=compiler)


def _expected(law, strain):
    """Return the response at one strain (n_s,), with tangents that include 33 in plane strain, which comes last."""
    answer = law.evaluate(strain[None], np.zeros((1, law.n_state)), 1.0)
    stress, tangent = answer.stress[0], answer.tangent[0]
    if law.dim == 2:
        row = answer.tangent_33[0]
        stress = np.append(stress, answer.stress_33)
        tangent = np.block([[tangent, row[:, None]], [row[None], np.zeros((1, 1))]])
    error = law.certify(strain[None], answer, "indicator")[0]
    return SimpleNamespace(stress=stress, tangent=tangent, error=error)


def _strain(dim, size=0.01):
    """Return a strain with different components."""
    return size * np.array([1.0, -0.4, 0.7] if dim == 2 else [1.0, -0.4, 0.3, 0.5, -0.7, 0.2])


def _called(mgis, dim, strain, *, wanted=4.0, before=None, strain_33=0.0):
    """Call the behaviour at one strain of the law."""
    n = {2: 4, 3: 6}[dim]
    message = ctypes.create_string_buffer(512)
    gradients, start = (
        np.append(one, strain_33)[MFRONT[dim]] for one in (strain, 0 * strain if before is None else before)
    )
    found = SimpleNamespace(
        K=np.zeros((n, n)), rdt=np.array([1.0]), stress=np.full(n, -7.0), state=np.full(2, -7.0), sound=np.array([-7.0])
    )
    found.K[0, 0] = wanted
    view = _View(ctypes.cast(message, ctypes.c_char_p), 1.0, pointer(found.K), pointer(found.rdt), pointer(found.sound))
    setattr(view.s0, "0", pointer(start))
    for name, array in (("0", gradients), ("1", found.stress), ("4", found.state)):
        setattr(view.s1, name, pointer(array))
    found.status = getattr(mgis, "rve_PlaneStrain" if dim == 2 else "rve_Tridimensional")(ctypes.byref(view))
    found.message = message.value.decode()
    return found


def _close(values, expected, rtol):
    np.testing.assert_allclose(values, expected, rtol=0, atol=rtol * np.abs(expected).max())


def test_mgis_describes_the_behaviour(mgis, dim):
    texts = {"mfront_ept": b"rve", "mfront_interface": b"Generic"}
    for name, text in texts.items():
        assert ctypes.c_char_p.in_dll(mgis, f"rve_{name}").value == text
    numbers = {"api_version": 1, "mfront_mkt": 1, "nGradients": 1, "nInternalStateVariables": 2, "nParameters": 3}
    for name, number in numbers.items():
        assert ctypes.c_ushort.in_dll(mgis, f"rve_{name}").value == number
    hypothesis = (ctypes.c_char_p * 1).in_dll(mgis, "rve_ModellingHypotheses")[0]
    assert hypothesis == {2: b"PlaneStrain", 3: b"Tridimensional"}[dim]
    assert list((ctypes.c_char_p * 2).in_dll(mgis, "rve_InternalStateVariables")) == [b"Error", b"OutOfRange"]
    parameters = [b"out_of_range", b"compute_error", b"tolerance"]
    assert list((ctypes.c_char_p * 3).in_dll(mgis, "rve_Parameters")) == parameters
    assert list((ctypes.c_int * 3).in_dll(mgis, "rve_ParametersTypes")) == [2, 2, 0]
    defaults = [ctypes.c_ushort.in_dll(mgis, f"rve_{name.decode()}_ParameterDefaultValue") for name in parameters[:2]]
    assert [one.value for one in defaults] == [0, 1]


def test_mgis_integrates_in_the_components_of_mfront(mgis, law, dim):
    strain, places = _strain(dim), MFRONT[dim]
    answer, expected = _called(mgis, dim, strain), _expected(law, strain)
    assert (answer.status, answer.message, answer.rdt[0]) == (1, "", 1.0)
    _close(answer.stress, expected.stress[places], 1e-12)
    known = np.ones_like(answer.K, dtype=bool)
    if dim == 2:
        known[2, 2] = False  # 33, 33 has no effect in plane strain
        assert answer.K[2, 2] > 0.0
    _close(answer.K[known], expected.tangent[np.ix_(places, places)][known], 1e-12)
    in_plane = [i for i, place in enumerate(places) if place < len(strain)]
    own = [places[i] for i in in_plane]
    _close(answer.K[np.ix_(in_plane, in_plane)], expected.tangent[np.ix_(own, own)], 1e-12)
    np.testing.assert_allclose(answer.state, [expected.error, 0.0], rtol=0, atol=1e-12)


def test_mgis_gives_the_operator_that_is_asked_for(mgis, law, dim):
    strain = _strain(dim)
    tangent, elastic = _called(mgis, dim, strain).K, _called(mgis, dim, 0.0 * strain).K
    assert np.abs(tangent - elastic).max() > 1e-2 * np.abs(elastic).max()
    none = _called(mgis, dim, strain, wanted=0.0)
    assert (none.K == 0.0).all() and (none.stress != -7.0).all()
    _close(_called(mgis, dim, strain, wanted=1.0).K, elastic, 1e-14)
    sound = _called(mgis, dim, strain, wanted=104.0)
    assert sound.sound[0] == 0.0
    _close(sound.K, tangent, 1e-14)
    for wanted, before, expected in ((-3.0, strain, tangent), (-3.0, None, elastic), (-1.0, strain, elastic)):
        prediction = _called(mgis, dim, 5.0 * strain, wanted=wanted, before=before)
        _close(prediction.K, expected, 1e-14)
        assert prediction.status == 1 and (prediction.stress == -7.0).all() and (prediction.state == -7.0).all()


def test_mgis_answers_outside_the_range_with_unreliable(mgis, dim):
    far = _strain(dim, 0.04)
    refused = _called(mgis, dim, far)
    assert refused.status == 0 and refused.rdt[0] == 0.5 and "range of the training" in refused.message
    assert refused.state[1] == 1.0 and np.isfinite(refused.stress).all() and (refused.stress != -7.0).all()
    try:
        assert mgis.rve_setUnsignedShortParameter(b"out_of_range", ctypes.c_ushort(1)) == 1
        extrapolated = _called(mgis, dim, far)
        assert (extrapolated.status, extrapolated.rdt[0], extrapolated.state[1]) == (1, 1.0, 1.0)
    finally:
        mgis.rve_setUnsignedShortParameter(b"out_of_range", ctypes.c_ushort(0))
    assert mgis.rve_setUnsignedShortParameter(b"out_of_range", ctypes.c_ushort(2)) == 0
    assert mgis.rve_setUnsignedShortParameter(b"tolerance", ctypes.c_ushort(1)) == 0


def test_mgis_answers_above_the_tolerance_with_unreliable(mgis, dim):
    strain = _strain(dim)
    error = _called(mgis, dim, strain).state[0]
    try:
        assert mgis.rve_setParameter(b"tolerance", ctypes.c_double(0.9 * error)) == 1
        refused = _called(mgis, dim, strain)
        assert refused.status == 0 and refused.rdt[0] == 0.5 and "tolerance" in refused.message
        assert mgis.rve_setParameter(b"tolerance", ctypes.c_double(1.1 * error)) == 1
        assert _called(mgis, dim, strain).status == 1
    finally:
        mgis.rve_setParameter(b"tolerance", ctypes.c_double(0.0))
    assert mgis.rve_setParameter(b"tolerance", ctypes.c_double(-1.0)) == 0
    assert mgis.rve_setParameter(b"unknown", ctypes.c_double(1.0)) == 0


def test_mgis_leaves_the_error_out_on_request(mgis, dim):
    strain = _strain(dim)
    whole = _called(mgis, dim, strain)
    assert mgis.rve_setUnsignedShortParameter(b"compute_error", ctypes.c_ushort(2)) == 0
    try:
        assert mgis.rve_setUnsignedShortParameter(b"compute_error", ctypes.c_ushort(0)) == 1
        without = _called(mgis, dim, strain)
        assert without.status == 1 and list(without.state) == [-1.0, 0.0] and whole.state[0] > 0.0
        np.testing.assert_array_equal(without.stress, whole.stress)
        np.testing.assert_array_equal(without.K, whole.K)
        assert list(_called(mgis, dim, _strain(dim, 0.04)).state) == [-1.0, 1.0]
        mgis.rve_setParameter(b"tolerance", ctypes.c_double(1e9))
        refused = _called(mgis, dim, strain)
        assert refused.status == -1 and "the tolerance needs an error: compute_error is 0" in refused.message
        assert _called(mgis, dim, strain, wanted=-3.0, before=strain).status == 1  # a prediction has none
    finally:
        mgis.rve_setUnsignedShortParameter(b"compute_error", ctypes.c_ushort(1))
        mgis.rve_setParameter(b"tolerance", ctypes.c_double(0.0))


def test_mgis_operators_are_the_derivatives_of_the_stresses(mgis, dim):
    strain, places, step = _strain(dim), MFRONT[dim], 1e-6
    in_plane = [i for i, place in enumerate(places) if place < len(strain)]  # 33 of plane strain cannot be moved
    operator = _called(mgis, dim, strain).K
    for i in in_plane:
        move = step * np.eye(len(strain))[places[i]]
        up, down = (_called(mgis, dim, one).stress for one in (strain + move, strain - move))
        assert np.abs((up - down) / (2.0 * step) - operator[:, i]).max() < 1e-6 * np.abs(operator).max()


def test_mgis_writes_to_its_parameters_only(mgis_folder, compiler):
    writable, needed = symbols(mgis_folder, "mgis.c", compiler)
    assert writable == {"extrapolates", "computes_error", "tolerance"}
    assert needed <= {"rve_evaluate", "snprintf", "strcmp", "memset", "_GLOBAL_OFFSET_TABLE_"}


def test_mgis_fails_with_a_message(mgis, dim):
    failed = _called(mgis, dim, np.nan * _strain(dim))
    assert failed.status == -1 and failed.rdt[0] == 0.5 and "converged" in failed.message
    if dim == 2:
        failed = _called(mgis, dim, _strain(dim), strain_33=1e-6)
        assert failed.status == -1 and "33" in failed.message


def _user_material(umat, strain, n, *, props=(), n_statv=2, pnewdt=1.0, name="umat_"):
    """Call UMAT with half of the strain, in engineering components, as increment; other arguments are null."""
    found = SimpleNamespace(
        stress=np.full(n, -7.0), ddsdde=np.full((n, n), -7.0), statev=np.full(max(n_statv, 1), -7.0)
    )
    half, step = 0.5 * np.asarray(strain, dtype=float), None if pnewdt is None else np.array([pnewdt])
    constants = np.array([n, n_statv, len(props)], np.int32)
    given = dict.fromkeys(range(37))
    given |= {0: found.stress, 1: found.statev if n_statv else None, 2: found.ddsdde, 10: half, 11: half, 27: step}
    given |= {21: constants[:1], 22: constants[1:2], 24: constants[2:]}
    given[23] = np.array(props, dtype=float) if len(props) else None
    getattr(umat, name)(*(pointer(given[i]) for i in range(37)))
    found.pnewdt, found.ddsdde = None if step is None else step[0], found.ddsdde.T
    return found


def _abaqus(dim, n):
    """Return the place in the law of each of n components of Abaqus (33 of plane strain last), and its weight.

    Shears out of the plane, which come last, have none.
    """
    places = {3: [0, 1, 2], 4: [0, 1, 3, 2], 6: [0, 1, 2, 5, 4, 3] if dim == 3 else [0, 1, 3, 2]}[n]
    shear = [(dim == 2 and place == 2) or (dim == 3 and place > 2) for place in places]
    return places, np.where(shear, SQRT2, 1.0)


@pytest.mark.parametrize("name", ["umat_", "umat"])
def test_umat_speaks_the_components_of_abaqus(umat, law, dim, name):
    strain = _strain(dim)
    expected = _expected(law, strain)
    for n in (3, 4, 6) if dim == 2 else (6,):
        places, weight = _abaqus(dim, n)
        m = len(places)
        found = _user_material(umat, np.append(np.append(strain, 0.0)[places] * weight, np.zeros(n - m)), n, name=name)
        _close(found.stress[:m], expected.stress[places] / weight, 1e-12)
        tangent = expected.tangent[np.ix_(places, places)] / np.outer(weight, weight)
        known = np.ones_like(tangent, dtype=bool)
        if dim == 2 and n > 3:
            known[2, 2] = False
        _close(found.ddsdde[:m, :m][known], tangent[known], 1e-12)
        assert np.linalg.eigvalsh(found.ddsdde)[0] > 0.0  # what plane strain does not use is regular
        assert (found.stress[m:] == 0.0).all()
        np.testing.assert_allclose(found.statev, [expected.error, 0.0], rtol=0, atol=1e-12)
        assert found.pnewdt == 1.0


def test_umat_can_speak_the_shear_order_of_kratos(anisotropic, tmp_path):
    strain = np.array([0.01, -0.004, 0.003, 0.002, -0.007, 0.005])  # 11, 22, 33, 12, 13, 23
    folder = exported(anisotropic[3], tmp_path / "kratos", "umat", CORRECTIONS)
    kratos = built(folder, "-O1 -Werror -DSHEAR_12_23_13")
    abaqus = built(exported(anisotropic[3], tmp_path / "rve", "umat", CORRECTIONS))
    order = [0, 1, 2, 3, 5, 4]
    ours, theirs = _user_material(abaqus, strain, 6), _user_material(kratos, strain[order], 6, name="umat")
    _close(theirs.stress, ours.stress[order], 1e-14)
    _close(theirs.ddsdde, ours.ddsdde[np.ix_(order, order)], 1e-14)


def test_umat_refuses_outside_the_range_unless_it_may_extrapolate(umat, dim, capfd):
    n = 3 if dim == 2 else 6
    far = _strain(dim, 0.05)
    refused = _user_material(umat, far, n)
    assert refused.pnewdt == 0.5 and refused.statev[1] == 1.0 and np.isfinite(refused.stress).all()
    assert _user_material(umat, far, n, pnewdt=-1.0).pnewdt == 0.5  # CalculiX: no wish
    assert _user_material(umat, far, n, pnewdt=0.25).pnewdt == 0.25
    extrapolated = _user_material(umat, far, n, props=(1.0,))
    assert extrapolated.pnewdt == 1.0 and extrapolated.statev[1] == 1.0
    assert capfd.readouterr().err == ""  # PNEWDT and STATEV say it
    assert np.isnan(_user_material(umat, far, n, pnewdt=None).stress).all()
    message = capfd.readouterr().err
    assert "outside the range of the training" in message and message.count("\n") == 1
    assert np.isnan(_user_material(umat, np.nan * far, n, pnewdt=None).stress).all()
    assert capfd.readouterr().err == ""  # a host that goes on with what is not a number has been told


def test_umat_refuses_above_the_tolerance(umat, dim):
    n, strain = 3 if dim == 2 else 6, _strain(dim)
    error = _user_material(umat, strain, n).statev[0]
    assert _user_material(umat, strain, n, props=(0.0, 0.9 * error)).pnewdt == 0.5
    assert _user_material(umat, strain, n, props=(0.0, 1.1 * error)).pnewdt == 1.0
    assert _user_material(umat, strain, n, props=(0.0, 0.9 * error), n_statv=0).pnewdt == 0.5


def test_umat_leaves_the_error_out_on_request(umat, dim, capfd):
    n, strain = 3 if dim == 2 else 6, _strain(dim)
    whole, without = (_user_material(umat, strain, n, props=(0.0, 0.0, one)) for one in (0.0, 1.0))
    assert whole.statev[0] > 0.0 and list(without.statev) == [-1.0, 0.0] and without.pnewdt == 1.0
    np.testing.assert_array_equal(without.stress, whole.stress)
    np.testing.assert_array_equal(without.ddsdde, whole.ddsdde)
    assert capfd.readouterr().err == ""
    assert _user_material(umat, strain, n, props=(0.0, 1e9, 1.0)).pnewdt == 0.5
    message = capfd.readouterr().err
    assert "the tolerance needs an error: PROPS(3) is 1" in message and message.count("\n") == 1


def test_a_law_without_an_error_says_so_to_hosts(anisotropic, tmp_path, capfd):
    umat = built(exported(anisotropic[2], tmp_path / "rve", "umat", 0))
    assert _user_material(umat, _strain(2), 3).statev[0] == -1.0
    assert _user_material(umat, _strain(2), 3, props=(0.0, 1e9)).pnewdt == 0.5
    assert "the law has none" in capfd.readouterr().err


def test_umat_jacobians_are_the_derivatives_of_the_stresses(umat, dim):
    step = 1e-6
    for n in (3, 4, 6) if dim == 2 else (6,):
        places, weight = _abaqus(dim, n)
        in_plane = [i for i, place in enumerate(places) if place < len(_strain(dim))]
        strain = np.zeros(n)
        strain[in_plane] = _strain(dim)[np.array(places)[in_plane]] * weight[in_plane]
        jacobian = _user_material(umat, strain, n).ddsdde
        for i in in_plane:
            move = step * np.eye(n)[i]
            up, down = (_user_material(umat, one, n).stress for one in (strain + move, strain - move))
            assert np.abs((up - down) / (2.0 * step) - jacobian[:, i]).max() < 1e-6 * np.abs(jacobian).max()


def test_umat_has_no_state(umat_folder, compiler):
    writable, needed = symbols(umat_folder, "umat.c", compiler)
    assert writable == set()
    assert needed <= {"rve_evaluate", "fprintf", "stderr", "_GLOBAL_OFFSET_TABLE_"}


def test_umat_survives_what_hosts_leave_out(umat, dim, capfd):
    n, strain = 3 if dim == 2 else 6, _strain(dim)
    whole = _user_material(umat, strain, n)
    for rest in ({"n_statv": 0}, {"n_statv": 1}, {"pnewdt": None}):
        np.testing.assert_array_equal(_user_material(umat, strain, n, **rest).stress, whole.stress)
    assert _user_material(umat, strain, n, n_statv=1).statev[0] == whole.statev[0]
    for other in {3, 4, 5, 6} - ({3, 4, 6} if dim == 2 else {6}):
        failed = _user_material(umat, np.zeros(other), other)
        assert failed.pnewdt == 0.5 and "NTENS" in capfd.readouterr().err
    failed = _user_material(umat, np.nan * strain, n)
    assert failed.pnewdt == 0.5 and failed.statev[1] == 2.0
    if dim == 2:
        assert _user_material(umat, [0.0, 0.0, 1e-6, 0.0], 4).pnewdt == 0.5
        assert "out of the plane" in capfd.readouterr().err
        assert _user_material(umat, [0.0, 0.0, 0.0, 0.0, 0.0, 1e-6], 6).pnewdt == 0.5


def test_only_the_entries_are_visible(umat, dim):
    assert hasattr(umat, "rve_evaluate") and hasattr(umat, "umat") and hasattr(umat, "umat_")
    for hidden in ("evaluate_chunk", "respond", "info", "in_blocks"):
        assert not hasattr(umat, hidden)
