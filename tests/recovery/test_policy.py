"""Runbooks at the door: file, field, what was expected; durations carry their unit."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from recovery.errors import Misconfigured
from recovery.policy import Systems, load_policy, parse_duration, parse_policy

RUNBOOK = Path(__file__).resolve().parents[2] / "runbooks" / "mass-password-reset.yaml"


def changed(**paths: object) -> str:
    document = yaml.safe_load(RUNBOOK.read_text())
    for path, value in paths.items():
        *parents, leaf = path.split("__")
        section = document
        for name in parents:
            section = section[name]
        section[leaf] = value
    return yaml.safe_dump(document)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30), ("15m", 900), ("1h30m", 5400), ("26d", 26 * 86400), ("250ms", 0.25)],
)
def test_durations(text: str, expected: float) -> None:
    assert parse_duration(text) == timedelta(seconds=expected)


@pytest.mark.parametrize("text", ["", "15", 15, "m", "15 minutes", "-5m", None])
def test_a_duration_without_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="unit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"waves__canary": 0}, "waves.canary"),
        ({"waves__canari": 5}, "waves.canari: no such field"),
        ({"enroll__token_ttl": "1h"}, "between 5m and 15m"),
        ({"enroll__code_ttl": "30m"}, "at most 10m"),
        ({"approvals__contain": {"approvers": []}}, "at least one approver"),
        ({"exclusions__accounts": []}, "exclusions.accounts"),
        ({"quotas__platform__per_second": 0}, "quotas.platform.per_second"),
        ({"detect__baseline": 26}, "a duration with its unit"),
        ({"notify__channels": ["pigeon"]}, "notify.channels"),
        ({"version": 2}, "version"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(Misconfigured) as refusal:
        parse_policy(changed(**change), source="runbooks/x.yaml")
    assert "runbooks/x.yaml" in str(refusal.value)
    assert named in str(refusal.value)


def test_broken_yaml_names_the_line() -> None:
    with pytest.raises(Misconfigured, match="line 3"):
        parse_policy("version: 1\nname: [a,\n]: x: y\n", source="x.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_not_a_mapping(text: str) -> None:
    with pytest.raises(Misconfigured, match="mapping of sections"):
        parse_policy(text, source="x.yaml")


def test_a_missing_file_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="nothing there"):
        load_policy(tmp_path / "none.yaml")


def test_no_python_objects_from_yaml() -> None:
    with pytest.raises(Misconfigured):
        parse_policy("!!python/object/apply:os.system ['true']", source="x.yaml")


def test_a_runbook_may_extend_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(changed(name="base"))
    child = tmp_path / "child.yaml"
    child.write_text("extends: base\nname: child\nquotas: {platform: {per_second: 7}}\n")
    policy, digest = load_policy(child)
    base, base_digest = load_policy(tmp_path / "base.yaml")
    assert policy.quotas.platform.per_second == 7
    assert policy.quotas.platform.concurrent == base.quotas.platform.concurrent
    assert policy.notify == base.notify
    assert digest != base_digest
    (tmp_path / "base.yaml").write_text(changed(name="base", waves__batch=7))
    assert load_policy(child)[1] != digest, "the digest covers what it extends"


@pytest.mark.parametrize("named", ["../secrets", "missing", 7, "child"])
def test_what_can_not_be_extended(tmp_path: Path, named: object) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(yaml.safe_dump({"extends": named, "name": "child"}))
    with pytest.raises(Misconfigured):
        load_policy(child)


def test_one_ci_or_several_by_name() -> None:
    one, _ = load_policy(RUNBOOK.with_name("mass-password-reset.yaml"))
    several, _ = load_policy(RUNBOOK.with_name("rehearsal.yaml"))
    assert one.systems.ci_by_name == {"default": "jenkins-ci/main"}
    assert several.systems.ci_by_name == {
        "default": "jenkins-ci/main",
        "github": "github-actions-ci/main",
        "kubernetes": "kubernetes-ci/main",
    }
    for wrong in ({"github": "github-actions-ci/main"}, {"default": "a/b", "Git Hub": "c/d"}):
        with pytest.raises(ValidationError, match="ci"):
            Systems.model_validate({"ci": wrong})
