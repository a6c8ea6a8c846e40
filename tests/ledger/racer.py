"""A process of its own for the races: opens the ledger by URL, waits for a line, does one thing.

Run as `python racer.py URL WHAT ARGUMENTS...`; answers one JSON value on stdout.
"""

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from ledger import Ledger
from recovery.accounts import Act, Outcome, Stage, Verdict
from recovery.errors import Unverified
from recovery.incident import CodeCheck

KEY = b"a ledger key for the tests only!"


def main() -> None:
    url, what, *arguments = sys.argv[1:]
    ledger = Ledger(url, key=KEY, clock=lambda: datetime.now(UTC))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(_DOES[what](ledger, *arguments)), flush=True)
    ledger.close()


def together(count: int, act: Callable[[int], str]) -> dict[str, int]:
    start = threading.Barrier(count)

    def one(number: int) -> str:
        start.wait(timeout=60)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return dict(Counter(pool.map(one, range(count))))


def redeem(ledger: Ledger, jti: str, prefix: str, threads: str) -> object:
    def one(number: int) -> str:
        try:
            ledger.redeem(jti, f"{prefix}-{number}")
        except Unverified:
            return "refused"
        return "won"

    return together(int(threads), one)


def guess(ledger: Ledger, session: str, threads: str) -> object:
    def one(number: int) -> str:
        return str(ledger.check_code(session, f"guess-{number}", max_attempts=5))

    return {str(CodeCheck.WRONG): 0, **together(int(threads), one)}


def throttle(ledger: Ledger, key: str, calls: str) -> object:
    hits = [ledger.throttle(key, limit=25, per=timedelta(hours=1)) for _ in range(int(calls))]
    return sum(hits)


def write(ledger: Ledger, incident: str, name: str, times: str) -> object:
    """The flow process and the portal at once: batches here, single entries there."""
    for number in range(int(times)):
        acts = [Act(f"client-{name}-{number}-{i}", "rotate.create") for i in range(40)]
        ledger.intend(incident, acts)
        ledger.settle(incident, [Outcome(act, Verdict.DONE) for act in acts])
        ledger.note(incident, "tick", actor=name, facts={"n": number})
        ledger.tally(incident)
    return "done"


def issue(ledger: Ledger, incident: str, *refs: str) -> object:
    return [enrollment.jti for enrollment in ledger.issue(incident, refs)]


def migrate(ledger: Ledger) -> object:
    return ledger.migrate()


def die(ledger: Ledger, incident: str, when: str, *refs: str) -> object:
    """Stop as kill -9 does: after intending, or in the middle of settling."""
    acts = [Act(ref, "contain.revoke") for ref in refs]
    ledger.intend(incident, acts)
    if when == "while settling":
        log = ledger._write

        def dying() -> object:
            class Dying:
                def __enter__(self) -> object:
                    self.inner = log()
                    return self.inner.__enter__()

                def __exit__(self, *_: object) -> None:
                    os.kill(os.getpid(), signal.SIGKILL)

            return Dying()

        ledger._write = dying  # type: ignore[method-assign, assignment]
        ledger.settle(
            incident, [Outcome(act, Verdict.DONE) for act in acts], advance=Stage.CONTAINED
        )
    os.kill(os.getpid(), signal.SIGKILL)
    return None


_DOES: dict[str, Callable[..., object]] = {
    "redeem": redeem,
    "guess": guess,
    "throttle": throttle,
    "write": write,
    "issue": issue,
    "migrate": migrate,
    "die": die,
}

if __name__ == "__main__":
    main()
