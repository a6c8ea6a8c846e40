"""The runbook's CIs behind one `run`, against two real servers of the rehearsal."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from recovery.errors import Misconfigured
from tasks.ci import CiByName
from tests.contracts.ci_benches import GitHubBench, JenkinsBench

SOON = {"poll": timedelta(milliseconds=20), "timeout": timedelta(seconds=5)}


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_each_job_goes_to_its_own_ci(stack: AsyncExitStack) -> None:
    jenkins, github = JenkinsBench(), GitHubBench()
    for bench in (jenkins, github):
        stack.push_async_callback(bench.aclose)
    cis = CiByName(
        {
            "default": await stack.enter_async_context(jenkins.client()),
            "github": await stack.enter_async_context(github.client()),
        }
    )
    assert set(cis.names) == {"default", "github"}
    for number, job in enumerate(("green", "github:green.yml")):
        build = await cis.run(
            job, {"CONSUMER": "a"}, run_id=f"recovery-abcdefghijklmn{number + 2}a", **SOON
        )
        assert build.url
    assert (jenkins.started("green"), github.started("green")) == (1, 1)
    with pytest.raises(Misconfigured, match=r"systems\.ci"):
        await cis.run("gitlab:ops/restart", {}, run_id="recovery-abcdefgh", **SOON)
