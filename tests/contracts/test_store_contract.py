"""The promise of `clients.secret_store`, proven for every store: Vault (our OpenBao, and the one at
VAULT_ADDR where that is set), AWS Secrets Manager (moto's server), Azure Key Vault."""

import asyncio
import logging
from typing import Any

import pytest
from pydantic import SecretStr

from clients.secret_store import SecretStore
from recovery.errors import Conflict, NotFound, RecoveryError, Refused, Unknown, Unreachable
from recovery.rotate import SecretLabels
from rehearsal.world.faults import CloseAfter, CloseBefore, Status
from tests.contracts.benches import OLD, Bench

NEW = "cs_new-value-that-nobody-may-see:+/%"


def labels(found: SecretLabels) -> tuple[str | None, str | None, str | None]:
    return found.current_id, found.pending_id, found.previous_id


def plain(found: tuple[str, SecretStr]) -> tuple[str, str]:
    return found[0], found[1].get_secret_value()


async def version(store: SecretStore, path: str) -> int | str:
    return (await store.observe(path)).version


@pytest.fixture
async def path(bench: Bench) -> str:
    path = bench.path()
    await bench.seed(path)
    return path


async def test_a_rotation_moves_the_labels(bench: Bench, path: str) -> None:
    async with bench.client() as store:
        await store.check()
        assert labels(await store.observe(path)) == ("s1", None, None)
        cas = await store.stage_pending(path, "s2", SecretStr(NEW), cas=await version(store, path))
        assert labels(await store.observe(path)) == ("s1", "s2", None)
        assert cas == await version(store, path)
        assert plain(await store.current(path)) == ("s1", OLD)
        assert plain(await store.pending(path)) == ("s2", NEW)
        assert await bench.consumed(path) == OLD
        cas = await store.promote(path, cas=cas)
        assert labels(await store.observe(path)) == ("s2", None, "s1")
        assert cas == await version(store, path)
        assert plain(await store.current(path)) == ("s2", NEW)
        assert await bench.consumed(path) == NEW
        with pytest.raises(NotFound, match="PENDING"):
            await store.pending(path)
        cas = await store.drop_previous(path, cas=cas)
        assert labels(await store.observe(path)) == ("s2", None, None)
        assert cas == await version(store, path)
        assert await bench.consumed(path) == NEW


async def test_a_failed_rotation_goes_back(bench: Bench, path: str) -> None:
    async with bench.client() as store:
        cas = await store.stage_pending(path, "s2", SecretStr(NEW), cas=await version(store, path))
        cas = await store.promote(path, cas=cas)
        cas = await store.roll_back(path, cas=cas)
        assert labels(await store.observe(path)) == ("s1", None, None)
        assert cas == await version(store, path)
        assert plain(await store.current(path)) == ("s1", OLD)
        assert await bench.consumed(path) == OLD
        cas = await store.stage_pending(path, "s3", SecretStr("newer"), cas=cas)
        cas = await store.drop_pending(path, cas=cas)
        assert labels(await store.observe(path)) == ("s1", None, None)
        assert cas == await version(store, path)
        assert await bench.consumed(path) == OLD


async def test_a_rollback_after_many_versions(bench: Bench, path: str) -> None:
    """More writes than Vault keeps versions by default: what a rollback needs is never pruned."""
    async with bench.client() as store:
        cas = await version(store, path)
        for n in range(2, 6):
            cas = await store.stage_pending(path, f"s{n}", SecretStr(f"value-{n}"), cas=cas)
            cas = await store.promote(path, cas=cas)
            cas = await store.drop_previous(path, cas=cas)
        cas = await store.stage_pending(path, "s6", SecretStr("value-6"), cas=cas)
        cas = await store.promote(path, cas=cas)
        cas = await store.roll_back(path, cas=cas)
        assert plain(await store.current(path)) == ("s5", "value-5")
        assert await bench.consumed(path) == "value-5"
        # The same again upon it, with labels that look as they did before.
        cas = await store.stage_pending(path, "s7", SecretStr("value-7"), cas=cas)
        await store.promote(path, cas=cas)
        assert await bench.consumed(path) == "value-7"


async def test_nothing_stands_where_nothing_was_written(bench: Bench) -> None:
    path = bench.path()
    async with bench.client() as store:
        found = await store.observe(path)
        assert labels(found) == (None, None, None)
        assert not found.version
        for read in (store.current, store.pending):
            with pytest.raises(NotFound):
                await read(path)
        for move in (store.promote, store.roll_back, store.drop_pending, store.drop_previous):
            with pytest.raises(Refused, match=r"Look again|Create the secret"):
                await move(path, cas=found.version)


async def test_moves_that_do_not_fit_are_refused_and_change_nothing(
    bench: Bench, path: str
) -> None:
    async with bench.client() as store:
        cas = await version(store, path)
        for move, code in (
            (store.promote, "no_pending"),
            (store.roll_back, "no_previous"),
            (store.drop_pending, "no_pending"),
            (store.drop_previous, "no_previous"),
        ):
            with pytest.raises(Refused) as caught:
                await move(path, cas=cas)
            assert caught.value.code == code
        cas = await store.stage_pending(path, "s2", SecretStr(NEW), cas=cas)
        with pytest.raises(Refused) as caught:
            await store.stage_pending(path, "s3", SecretStr("newer"), cas=cas)
        assert caught.value.code == "pending_taken"
        cas = await store.promote(path, cas=cas)
        with pytest.raises(Refused) as caught:
            await store.stage_pending(path, "s3", SecretStr("newer"), cas=cas)
        assert caught.value.code == "previous_taken"
        assert labels(await store.observe(path)) == ("s2", None, "s1")
        assert cas == await version(store, path)


async def test_an_old_look_is_a_conflict(bench: Bench, path: str) -> None:
    async with bench.client() as store:
        first = await version(store, path)
        cas = await store.stage_pending(path, "s2", SecretStr(NEW), cas=first)
        for move in (store.promote, store.roll_back, store.drop_pending, store.drop_previous):
            with pytest.raises(Conflict) as caught:
                await move(path, cas=first)
            assert caught.value.code == "cas_mismatch"
        # Staged and dropped: the labels are as before, the state is another one.
        cas = await store.drop_pending(path, cas=cas)
        assert cas != first
        with pytest.raises(Conflict):
            await store.stage_pending(path, "s3", SecretStr("newer"), cas=first)
        await store.stage_pending(path, "s3", SecretStr("newer"), cas=cas)
        assert plain(await store.pending(path)) == ("s3", "newer")


async def test_somebody_who_writes_by_hand_is_not_overwritten(bench: Bench, path: str) -> None:
    async with bench.client() as store:
        cas = await version(store, path)
        await bench.overwrite(path, "s9", "by hand")
        with pytest.raises(Conflict):
            await store.stage_pending(path, "s2", SecretStr(NEW), cas=cas)
        assert (await store.observe(path)).current_id == "s9"
        assert plain(await store.current(path)) == ("s9", "by hand")
        assert await bench.consumed(path) == "by hand"


# Races. Each racer is a process of its own as far as the store can tell.


async def race(racers: list[Any]) -> list[Any]:
    return await asyncio.gather(*racers, return_exceptions=True)


async def test_of_32_racers_that_stage_one_wins(bench: Bench, path: str) -> None:
    bench.patient = True
    stores = [bench.client() for _ in range(32)]
    try:
        cas = await version(stores[0], path)
        results = await race(
            [
                store.stage_pending(path, f"racer-{n}", SecretStr(f"value-{n}"), cas=cas)
                for n, store in enumerate(stores)
            ],
        )
        won = [n for n, r in enumerate(results) if not isinstance(r, BaseException)]
        assert len(won) == 1, results
        assert sum(isinstance(r, Conflict) for r in results) == 31
        (winner,) = won
        assert plain(await stores[0].pending(path)) == (f"racer-{winner}", f"value-{winner}")
        assert labels(await stores[0].observe(path)) == ("s1", f"racer-{winner}", None)
        assert await version(stores[0], path) == results[winner]
        assert await bench.consumed(path) == OLD
    finally:
        for store in stores:
            await store.aclose()


async def test_of_32_racers_that_move_a_label_one_wins(bench: Bench, path: str) -> None:
    bench.patient = True
    stores = [bench.client() for _ in range(32)]
    try:
        cas = await version(stores[0], path)
        cas = await stores[0].stage_pending(path, "s2", SecretStr(NEW), cas=cas)
        results = await race([store.promote(path, cas=cas) for store in stores])
        assert sum(not isinstance(r, BaseException) for r in results) == 1, results
        assert sum(isinstance(r, Conflict) for r in results) == 31
        assert labels(await stores[0].observe(path)) == ("s2", None, "s1")
        assert await bench.consumed(path) == NEW
    finally:
        for store in stores:
            await store.aclose()


async def test_two_that_decide_differently_end_in_one_state(bench: Bench, path: str) -> None:
    """One promotes what the other drops: whoever loses, consumers read what the labels say."""
    bench.patient = True
    for round_ in range(3):
        async with bench.client() as one, bench.client() as other:
            cas = await version(one, path)
            name, value = f"s{round_ + 2}", f"value-{round_}"
            cas = await one.stage_pending(path, name, SecretStr(value), cas=cas)
            results = await race([one.promote(path, cas=cas), other.drop_pending(path, cas=cas)])
            assert any(isinstance(r, Conflict) for r in results), results
            found = await one.observe(path)
            assert found.pending_id is None
            current_id, current = plain(await one.current(path))
            assert current_id == found.current_id
            assert await bench.consumed(path) == current
            if found.previous_id is not None:
                await one.drop_previous(path, cas=found.version)


# Answers that are lost on the way.


async def test_a_write_whose_answer_is_lost_is_made_once(bench: Bench, path: str) -> None:
    async with bench.client() as store:
        cas = await version(store, path)
        lost = bench.faults.inject(CloseAfter(), bench.staging, times=1)
        cas = await store.stage_pending(path, "s2", SecretStr(NEW), cas=cas)
        assert lost.hits == 1
        assert labels(await store.observe(path)) == ("s1", "s2", None)
        for move, after in (
            (store.promote, ("s2", None, "s1")),
            (store.roll_back, ("s1", None, None)),
        ):
            lost = bench.faults.inject(CloseAfter(), bench.write, times=1)
            cas = await move(path, cas=cas)
            assert lost.hits == 1
            assert labels(await store.observe(path)) == after
            assert cas == await version(store, path)
        assert await bench.consumed(path) == OLD


async def test_a_write_that_never_arrived_is_made_once(bench: Bench, path: str) -> None:
    async with bench.client() as store:
        cas = await version(store, path)
        bench.faults.inject(CloseBefore(), bench.staging, times=1)
        cas = await store.stage_pending(path, "s2", SecretStr(NEW), cas=cas)
        bench.faults.inject(CloseBefore(), bench.write, times=1)
        bench.faults.inject(Status(502), bench.write, times=1)
        await store.promote(path, cas=cas)
        assert labels(await store.observe(path)) == ("s2", None, "s1")
        assert await bench.consumed(path) == NEW


async def test_what_can_not_be_cleared_up_is_unknown(bench: Bench, path: str) -> None:
    async with bench.client() as store:
        cas = await version(store, path)
        bench.faults.inject(CloseBefore(), bench.write, times=None)
        with pytest.raises(Unknown):
            await store.stage_pending(path, "s2", SecretStr(NEW), cas=cas)
        bench.faults.clear()
        assert labels(await store.observe(path)) == ("s1", None, None)
        assert await bench.consumed(path) == OLD


async def test_reads_are_tried_again(bench: Bench, path: str) -> None:
    async with bench.client() as store:
        bench.faults.inject(Status(503), "GET|POST /(List|Get)", times=1)
        assert labels(await store.observe(path)) == ("s1", None, None)
        bench.faults.inject(Status(500), "GET|POST", times=None)
        with pytest.raises((Unreachable, Unknown)):
            await store.observe(path)


async def test_no_value_in_logs_errors_or_names(
    bench: Bench, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    async with bench.client() as store:
        cas = await version(store, path)
        new = await store.stage_pending(path, "s2", SecretStr(NEW), cas=cas)
        for attempt in (
            store.stage_pending(path, "s3", SecretStr(NEW), cas=cas),
            store.stage_pending(path, "s3", SecretStr(NEW), cas=new),
            store.drop_previous(path, cas=new),
        ):
            with pytest.raises(RecoveryError) as caught:
                await attempt
            seen.append(f"{caught.value} {caught.value.__dict__}")
        seen += [repr(store), repr(await store.pending(path)), repr(await store.observe(path))]
    assert NEW not in caplog.text + "".join(seen)
    assert OLD not in caplog.text + "".join(seen)


@pytest.mark.parametrize("wrong", ["../sys/policy", "apps/a b", "apps/é", "", "apps//x"])
async def test_a_path_that_leads_elsewhere_is_never_sent(bench: Bench, wrong: str) -> None:
    async with bench.client() as store:
        with pytest.raises((RecoveryError, ValueError)) as caught:
            await store.observe(wrong)
        assert type(caught.value).__name__ == "Misconfigured"
