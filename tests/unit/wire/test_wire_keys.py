"""Keys: canonical forms, an injective encoding, and the partition that Java would choose."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference_murmur2

from deptbus.contract.model import CanonicalForm
from deptbus.errors import SourceRefused, WireRefused
from deptbus.wire.keys import KeyMaker, canonical, fingerprint, new_secret
from deptbus.wire.partitioner import murmur2, partition_of, partitioner, partitions_of

SECRET = bytes(range(32))


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ("33010619900101001x", "33010619900101001X"),
        (" 33010619900101001X\t\r\n", "33010619900101001X"),
        ("\u3000３３０１０６１９９００１０１００１Ｘ\u3000", "33010619900101001X"),
        ("３３０１０６１９９００１０１００１ｘ", "33010619900101001X"),
        ("\ufeff\u200b91330106MA27x\u2060\u200d", "91330106MA27X"),
        ("\u00a0\u2003A B\u202f\u205f", "A B"),
        ("Ａ\u3000Ｂ", "A B"),
        ("～！（）", "~!()"),
        ("杭房权证字第1号", "杭房权证字第1号"),
        # Not NFKC: these stay what they are.
        ("①", "①"),
        ("ﬁ", "ﬁ"),
        ("㎡", "㎡"),
        ("Ⅳ", "Ⅳ"),
        ("，。", ",。"),
        # Not str.upper: one letter stays one letter, others are not touched.
        ("ß", "ß"),
        ("é", "é"),
        ("", ""),
    ],
)
def test_canonical_form(typed: str, form: str) -> None:
    assert canonical(typed) == form
    assert canonical(form) == form


def test_every_full_width_character_becomes_the_ascii_one() -> None:
    wide = "".join(map(chr, range(0xFF01, 0xFF5F)))
    assert canonical(wide, [CanonicalForm.HALF_WIDTH]) == "".join(map(chr, range(0x21, 0x7F)))


def test_all_that_python_calls_space_is_trimmed() -> None:
    spaces = [chr(n) for n in range(0x110000) if chr(n).isspace()]
    assert [s for s in spaces if canonical(f"{s}a{s}", [CanonicalForm.TRIM]) != "a"] == []


def test_forms_apply_in_the_order_given_and_only_those() -> None:
    assert canonical(" ａ ", [CanonicalForm.TRIM]) == "ａ"
    assert canonical(" ａ ", [CanonicalForm.HALF_WIDTH]) == " a "
    assert canonical("ａ", [CanonicalForm.UPPER]) == "Ａ"
    assert canonical(" ａ ", []) == " ａ "


def test_key_is_sixteen_bytes_and_the_same_for_ever() -> None:
    key = KeyMaker(SECRET, "resident").key(["33010619900101001X"])
    assert key.hex() == "80e2e1902a261a275ca568c5224c32a6"


def test_key_is_an_hmac_that_others_can_compute() -> None:
    parts = [b"room", b"A-1", b"12"]
    message = b"deptbus key 1\0" + b"".join(len(p).to_bytes(4, "big") + p for p in parts)
    expected = hmac.new(SECRET, message, hashlib.sha256).digest()[:16]
    assert KeyMaker(SECRET, "room").key(["a-1", " 12 "]) == expected


def test_one_person_typed_in_many_ways_has_one_key() -> None:
    maker = KeyMaker(SECRET, "resident")
    forms = [
        "33010619900101001x",
        "　33010619900101001X",
        "３３０１０６１９９００１０１００１Ｘ\ufeff",
    ]
    assert len({maker.key([form]) for form in forms}) == 1


def test_keys_differ_by_part_boundaries_dataset_and_secret() -> None:
    maker = KeyMaker(SECRET, "room")
    keys = [
        maker.key(["a", "bc"]),
        maker.key(["ab", "c"]),
        maker.key(["abc"]),
        maker.key(["abc", ""]),
        maker.key(["", "abc"]),
        KeyMaker(SECRET, "rooma").key(["bc"]),
        KeyMaker(SECRET, "roo").key(["mabc"]),
        KeyMaker(bytes(32), "room").key(["abc"]),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("natural", [[], [""], [" \u3000"], ["\ud800"], [12], [None], [b"1"]])
def test_no_key_for_what_has_no_identity(natural: list[object]) -> None:
    with pytest.raises(WireRefused) as refused:
        KeyMaker(SECRET, "resident").key(natural)
    assert refused.value.reason == "bad_value"
    assert refused.value.__context__ is None


def test_secrets_are_random_and_long_enough() -> None:
    assert len(new_secret()) == 32
    assert new_secret() != new_secret()
    with pytest.raises(SourceRefused):
        KeyMaker(b"short", "resident")


def test_fingerprint_names_a_secret_and_is_no_key() -> None:
    assert fingerprint(SECRET) == "70b8072b480efb6a5b67d46385e64324"
    assert fingerprint(SECRET) != fingerprint(bytes(32))
    assert len(fingerprint(SECRET)) == 32


# org.apache.kafka.common.utils.UtilsTest.testMurmur2, of Apache Kafka.
JAVA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), JAVA_VECTORS.items())
def test_murmur2_is_javas(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF


def test_murmur2_agrees_with_aiokafka_at_every_length() -> None:
    data = hashlib.sha512(b"keys").digest()
    for length in range(len(data) + 1):
        assert murmur2(data[:length]) == reference_murmur2(data[:length])


def test_partition_of_our_keys_is_that_of_the_general_hash() -> None:
    """Sixteen bytes take a way of their own."""
    reference = DefaultPartitioner()
    for i in range(2000):
        key = hashlib.md5(str(i).encode()).digest()
        for partitions in (1, 3, 4, 256):
            everyone = list(range(partitions))
            expected = reference(key, everyone, everyone)
            assert partition_of(key, partitions) == expected
            assert partitioner(key, everyone, everyone) == expected


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 64, 65, 255, 256, 257, 1000])
def test_many_partitions_are_those_of_each(count: int) -> None:
    for edge in (b"\0" * 16, b"\xff" * 16, None):
        keys = [edge or hashlib.md5(str(i).encode()).digest() for i in range(count)]
        assert partitions_of(keys, 7) == [partition_of(key, 7) for key in keys]
    foreign = [b"short", *keys]
    assert partitions_of(foreign, 7) == [partition_of(key, 7) for key in foreign]


def test_a_record_without_a_key_names_its_partition() -> None:
    with pytest.raises(ValueError):
        partitioner(None, [0, 1], [0, 1])
