"""The Merkle tree of RFC 9162: its published roots, and proofs that hold for the truth alone."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.errors import Unverified
from recovery.merkle import (
    EMPTY_ROOT,
    Growing,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
)

# The eight inputs and the roots that the reference implementations of RFC 6962 share.
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_published_roots(size: int) -> None:
    assert root_of(leaf_hash(each) for each in INPUTS[:size]).hex() == ROOTS[size - 1]


def test_an_empty_tree() -> None:
    assert Growing().root() == EMPTY_ROOT == hashlib.sha256().digest()


@given(st.integers(1, 130).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_every_entry_is_proven_and_no_other_in_its_place(case: tuple[int, int]) -> None:
    size, index = case
    tree = leaves(size)
    root, proof = root_of(tree), inclusion_proof(tree, index)
    check_inclusion(tree[index], index, size, proof, root)
    other = leaf_hash(b"another entry")
    for wrong in (
        (other, index, size, proof, root),
        (tree[index], index, size, proof, other),
        (tree[index], index, size, [*proof, other], root),
        (tree[index], size, size, proof, root),
    ):
        with pytest.raises(Unverified):
            check_inclusion(*wrong)
    if proof:
        with pytest.raises(Unverified):
            check_inclusion(tree[index], index, size, proof[:-1], root)


@given(st.integers(1, 130).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_growth_is_proven_and_a_rewritten_past_is_not(case: tuple[int, int]) -> None:
    size, earlier = case
    tree = leaves(size)
    proof = consistency_proof(tree, earlier)
    check_consistency(earlier, root_of(tree[:earlier]), size, root_of(tree), proof)
    rewritten = [leaf_hash(b"rewritten"), *tree[1:]]
    with pytest.raises(Unverified):
        check_consistency(
            earlier,
            root_of(tree[:earlier]),
            size,
            root_of(rewritten),
            consistency_proof(rewritten, earlier),
        )


def test_what_is_not_there_is_not_proven() -> None:
    with pytest.raises(IndexError):
        inclusion_proof(leaves(3), 3)
    with pytest.raises(IndexError):
        consistency_proof(leaves(3), 0)
