"""Unpickling runs no code, for any class or function that a pickle names."""

from __future__ import annotations

import pickle
import pickletools
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from refit_env.data.readers import opcodes, safe_unpickle
from refit_env.data.readers.safe_unpickle import ALLOWED, Array, read_inert
from refit_env.errors import DataError

PATH = Path("some.pkl")
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Trap:
    """Records whether it was unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


class Shell:
    """An object that would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return (os.system, ("touch sprung",))


class Evaluated:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("__import__('os').system('touch sprung')",))


def read(content: bytes) -> Any:
    return read_inert(PATH, BytesIO(content))


def named(module: str, name: str, arguments: bytes = b"(tR") -> bytes:
    """Return a pickle that calls a function by name, in protocol 0."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n" + arguments + b"."


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("trap", [Trap, Shell, Evaluated])
def test_a_malicious_pickle_is_refused_and_nothing_runs(
    trap: type, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (trap(), {"train": [trap()]}, (1, {2: trap()}), np.array([trap()], dtype=object)):
        with pytest.raises(DataError, match=r"some\.pkl: this pickle uses .*; refused, nothing was run"):
            read(pickle.dumps(value, protocol))
    assert not Trap.sprung and not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("__builtin__", "apply"),
        ("subprocess", "Popen"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.f2py.diagnose", "run_command"),
        ("pandas", "read_pickle"),
        ("pandas.core.frame", "DataFrame.to_csv"),
        ("pandas.core.frame", "os.system"),
        ("scipy.sparse", "load_npz"),
        ("refit_env.data.readers.safe_unpickle", "pickle.Unpickler"),
        ("codecs", "encode"),
        ("numpy ", "ndarray"),
    ],
)
def test_only_the_listed_names_are_known(module: str, name: str) -> None:
    with pytest.raises(DataError, match=r"refused, nothing was run|not a whole pickle"):
        read(named(module, name))
    text = pickle.dumps((module, name), 4)  # a name in protocol 4: two texts and STACK_GLOBAL
    texts = [arg for op, arg, _ in pickletools.genops(text) if "UNICODE" in op.name]
    assert texts == [module, name]
    stacked = (
        b"\x80\x04" + b"".join(b"X" + len(t).to_bytes(4, "little") + t.encode() for t in texts) + b"\x93."
    )
    with pytest.raises(DataError, match=r"refused, nothing was run|not a whole pickle"):
        read(stacked)


def test_every_allowed_name_maps_to_a_placeholder() -> None:
    """Every callable that a pickle can reach is a placeholder of this package, without side effects."""
    for (module, name), placeholder in ALLOWED.items():
        assert isinstance(placeholder, safe_unpickle.Call) or issubclass(placeholder, safe_unpickle.Inert), (
            module,
            name,
        )  # type: ignore[arg-type]
        assert type(placeholder).__module__ in (safe_unpickle.__name__, "builtins")


@pytest.mark.parametrize(
    "content",
    [
        named("_codecs", "encode", b"}(S'__name__'\nS'x'\nub"),  # a change of a function
        named("_codecs", "encode", b"(N}(S'__code__'\nNutb"),
        named("builtins", "slice", b"}b"),
        named("numpy", "ndarray", b"}(S'value'\nI1\nub"),  # a change of a class
        named("_codecs", "encode", b"(S'aa'\nS'zlib'\ntR"),
        named("numpy.core.multiarray", "_reconstruct", b"(cpandas.core.frame\nDataFrame\n(tS'b'\ntR"),
        named("copyreg", "_reconstructor", b"(cbuiltins\nslice\ncbuiltins\nobject\nNtR"),
        b"Pexternal\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x05\x97.",  # an out-of-band buffer
        b"I1\n(S'x'\nR.",
    ],
)
def test_other_tricks_are_errors(content: bytes) -> None:
    before = {key: vars(value).copy() for key, value in ALLOWED.items() if isinstance(value, type)}
    with pytest.raises(DataError, match=r"some\.pkl: "):
        read(content)
    after = {key: vars(value).copy() for key, value in ALLOWED.items() if isinstance(value, type)}
    assert before == after


def test_arrays_of_other_types_or_wrong_sizes_are_refused() -> None:
    for values in (
        np.zeros(2, dtype="c16"),
        np.zeros(2, dtype="U3"),
        np.zeros(2, dtype=[("a", "i4")]),
        np.zeros(2, dtype="M8[s]"),
    ):
        with pytest.raises(DataError, match="not a whole pickle"):
            read(pickle.dumps(values, 4))
    good = pickle.dumps(np.zeros(3), 2)
    with pytest.raises(DataError, match="not a whole pickle"):
        read(good.replace(b"K\x03\x85", b"K\x04\x85"))  # four numbers of three numbers' bytes


numbers = st.sampled_from(["<i8", "<i4", ">i2", "|u1", "<f8", ">f8", "<f4", "|b1"])


@given(
    arrays.arrays(dtype=numbers, shape=arrays.array_shapes(max_dims=3, max_side=4, min_side=0)),
    st.sampled_from(PROTOCOLS),
    st.booleans(),
)
def test_arrays_survive_a_round_trip(values: Any, protocol: int, transpose: bool) -> None:
    values = values.T if transpose else values
    found = read(pickle.dumps({"x": values, "y": [values, values]}, protocol))
    assert isinstance(found["x"], Array)
    assert found["x"].value.dtype == values.dtype and found["x"].value.shape == values.shape
    assert np.array_equal(found["x"].value, values, equal_nan=values.dtype.kind == "f")
    assert found["y"][0] is found["y"][1]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(plain, st.sampled_from(PROTOCOLS[1:]))
def test_plain_values_survive_a_round_trip(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@given(plain.filter(lambda value: len(pickle.dumps(value)) > 12), st.data())
def test_a_truncated_pickle_is_an_error(value: Any, data: st.DataObject) -> None:
    whole = pickle.dumps(value)
    with pytest.raises(DataError, match=r"some\.pkl: "):
        read(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=60))
def test_any_bytes_are_data_or_an_error(content: bytes) -> None:
    try:
        read(content)
    except DataError as error:
        assert str(PATH) in str(error)


def test_numbers_of_numpy_become_pythons() -> None:
    for protocol in PROTOCOLS:
        assert read(pickle.dumps(np.float32(2.5), protocol)) == 2.5
        assert read(pickle.dumps(np.int64(7), protocol)) == 7


def doubled(depth: int, make: bytes = b"l") -> bytes:
    """Return nested lists (or tuples) of two references each: 2 ** depth leaves in few bytes."""
    return b"(" + make + b"".join(b"q%c0(h%ch%c" % (n, n, n) + make for n in range(depth))


BOMBS = {
    "a memo of 5e7": b"]r\x80\xf0\xfa\x02.",
    "a memo of text": b"]p50000000\n.",
    "a key of tuples": b"}" + doubled(60, b"t") + b"Ns.",
    "keys of tuples at once": b"(" + doubled(60, b"t") + b"Nd.",
    "keys of tuples set together": b"}(" + doubled(60, b"t") + b"Nu.",
    "a long text": b"\x8d\xff\xff\xff\xff\xff\x00\x00\x00abc.",
    "long bytes": b"\x8e\xff\xff\xff\xff\xff\x00\x00\x00abc.",
    "a long number": b"\x8b\xff\xff\xff\x7fabc.",
    "a number of many digits": b"I" + b"9" * 10**5 + b"\n.",
    "a large frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\x00\x00\x00.",
    "a set": b"\x80\x04\x8f(K\x01\x90.",
    "an array of a huge shape": named("numpy", "ndarray", b"(tR(I1\n(I1000000000000\ntNI00\nS''\ntb"),
    "an array type of nested lists": named(
        "numpy", "ndarray", b"(tR(I1\n(I1\ntcnumpy\ndtype\n(" + doubled(30) + b"tRI00\nS''\ntb"
    ),
    "an encoding of nested lists": named("_codecs", "encode", b"(S'a'\n" + doubled(30) + b"tR"),
    "a text that is encoded again and again": named(
        "_codecs", "encode", b"q\x010(S'" + b"a" * 10**5 + b"'\nS'latin1'\ntq\x02" + b"0h\x01h\x02R" * 10**3
    ),
    "a list that fills array after array": b"]q\x01("
    + b"N" * 10**6
    + b"e("
    + b"".join(
        named("numpy", "ndarray", b"(tR(I1\n(I100000\ntcnumpy\ndtype\n(S'O'\ntRI00\nh\x01tb")[:-1]
        for _ in range(200)
    )
    + b"l.",
    "a name without end": named("x" * 10**6, "y"),
}


@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_a_small_pickle_does_not_become_large(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcodes, "FREE", 10**5)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"some\.pkl: ") as caught:
            read(BOMBS[bomb])
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 500


def test_too_many_objects_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcodes, "FREE", 100)
    assert len(read(b"(" + b"]" * 90 + b"l.")) == 90
    with pytest.raises(DataError, match="far more objects than a file of this size holds"):
        read(
            named(
                "_codecs", "encode", b"q\x010(S'" + b"a" * 90 + b"'\nS'latin1'\ntq\x02" + b"0h\x01h\x02R" * 20
            )
        )


@pytest.mark.parametrize("nested", [b"]" * 10**5 + b"a" * (10**5 - 1), b"N" + b"\x85" * 10**5])
def test_deep_nesting_is_data_or_an_error(nested: bytes) -> None:
    value = read(nested + b".")
    assert type(value) in (list, tuple) and len(value) == 1
    with pytest.raises(DataError, match="as a key"):
        read(b"}" + nested + b"Ns.")


def test_a_dictionary_has_few_entries() -> None:
    assert len(read(pickle.dumps({n: None for n in range(1000)}))) == 1000
    with pytest.raises(DataError, match="a dictionary of more than 1000 entries"):
        read(pickle.dumps({n: None for n in range(1001)}))
