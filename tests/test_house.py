"""The arrows between packages, strict limits, silent imports, one word per phase."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery.policy import load_policy

ROOT = Path(__file__).resolve().parent.parent
OURS = {"flows", "tasks", "blocks", "recovery", "clients", "ledger", "portal", "rehearsal"}

# package -> packages of ours and third parties that it may never import
MAY_IMPORT = {
    "recovery": {"recovery"},
    "clients": {"clients", "recovery"},
    "ledger": {"ledger", "recovery"},
    "blocks": {"blocks", "clients", "ledger", "recovery"},
    "tasks": {"tasks", "blocks", "clients", "ledger", "recovery"},
    "flows": {"flows", "tasks", "blocks", "clients", "ledger", "recovery"},
    "portal": {"portal", "clients", "ledger", "recovery"},
    "rehearsal/world": {"rehearsal.world"},
}
NO_PREFECT = {"recovery", "clients", "ledger", "portal", "rehearsal/world"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_between_packages(package: str) -> None:
    files = sources(package)
    assert files, f"{package} is empty"
    for path in files:
        for name in imports(path):
            if name.split(".")[0] in OURS:
                allowed = any(name == a or name.startswith(a + ".") for a in MAY_IMPORT[package])
                assert allowed, f"{path.relative_to(ROOT)} imports {name}"
            if package in NO_PREFECT:
                assert name.split(".")[0] != "prefect", f"{path.relative_to(ROOT)} imports Prefect"


def test_every_limit_fails_closed() -> None:
    calls = 0
    for package in OURS:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                called = node.func
                name = (
                    called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                )
                if name in ("rate_limit", "concurrency"):
                    calls += 1
                    strict = [k.value for k in node.keywords if k.arg == "strict"]
                    assert strict, f"{path}:{node.lineno}: {name} without strict=True"
                    assert isinstance(strict[0], ast.Constant)
                    assert strict[0].value is True
    assert calls, "no limit is acquired anywhere"


def test_importing_has_no_effect() -> None:
    """All modules are imported in a fresh process in an empty folder with sockets forbidden."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in OURS
        for path in sources(package)
        if path.stem != "__main__" and "versions" not in path.parts and path.stem != "env"
    ]
    script = (
        "import importlib, os, socket, sys\n"
        "before = dict(os.environ)\n"
        "def forbidden(*a, **k): raise SystemExit('an import opens a connection')\n"
        "socket.socket.connect = forbidden\n"
        f"for name in {sorted(names)!r}: importlib.import_module(name)\n"
        "assert dict(os.environ) == before, 'an import changes the environment'\n"
        "assert not os.listdir('.'), 'an import writes files'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        cwd=_empty_folder(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def _empty_folder() -> str:
    import tempfile

    return tempfile.mkdtemp()


@pytest.mark.parametrize(
    "phase", ["detect", "contain", "enroll", "rotate", "notify", "validate", "report"]
)
def test_one_word_per_phase(phase: str) -> None:
    for package in ("flows", "tasks", "recovery"):
        assert (ROOT / package / f"{phase}.py").exists(), f"{package}/{phase}.py"


def test_no_flow_hides_a_library() -> None:
    """A file entrypoint puts flows/ first on sys.path; no name there may shadow the library."""
    for path in sources("flows"):
        assert path.stem not in sys.stdlib_module_names, path


@pytest.mark.parametrize(
    "runbook", sorted((ROOT / "runbooks").glob("*.yaml")), ids=lambda p: p.stem
)
def test_runbooks_are_valid(runbook: Path) -> None:
    policy, digest = load_policy(runbook)
    assert policy.name == runbook.stem
    assert len(digest) == 64


def test_the_lock_names_no_registry_and_pins_by_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock
    pinned = [line for line in lock.splitlines() if line and not line[0].isspace()]
    assert len(pinned) > 100
    assert lock.count("--hash=sha256:") >= len(pinned)
