"""Check the files of deploy/ and the Dockerfile with the tools for each format: `make check-deploy`.

Nothing is started: no container, no pod, no unit. Each check prints one line; a failed check prints its output. The
tools come from PyPI (hadolint, check-jsonschema, kubernetes-validate), from Debian (promtool, systemd-analyze) and from
the Go module proxy (helm), into .data/deploy. A check without its tool is reported as not run; the run then
fails if `CI` is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

import boards

ROOT: Final = Path(__file__).resolve().parents[1]
DEPLOY: Final = ROOT / "deploy"
CHART: Final = DEPLOY / "helm" / "tickerplant"
TOOLS: Final = ROOT / ".data" / "deploy"
HELM: Final = "helm.sh/helm/v3/cmd/helm@v3.20.2"
KUBERNETES: Final = ("1.30.0", "1.34.0")
"""Versions of Kubernetes whose schemas the rendered chart must follow."""
VALUES: Final[Mapping[str, Sequence[str]]] = {
    "single": (),
    "services": ("--values", str(CHART / "ci" / "services.yaml")),
}
"""Options of helm for each mode of the chart."""
CUSTOM: Final = ("ServiceMonitor",)
"""Kinds without a schema in kubernetes-validate. Their fields are not checked."""


class Failed(Exception):
    """A check failed; the text contains the output."""


class NotRun(Exception):
    """A check could not run; the text is the reason."""


def main() -> int:
    """Run all checks; return 0 if none fails."""
    checks: Sequence[tuple[str, Callable[[], str]]] = (
        ("Dockerfile: hadolint", lambda: run(tool("hadolint"), str(ROOT / "Dockerfile"))),
        ("Dockerfile: its files exist and reach the build", check_context),
        ("compose files: schema of the Compose specification", check_compose),
        ("compose files: references", check_references),
        ("chart: helm lint", check_lint),
        ("chart: helm template, schemas of Kubernetes", check_chart),
        ("chart: wrong values are refused", check_refusals),
        ("unit: systemd-analyze verify", check_unit),
        ("unit: systemd-analyze security", check_security),
        ("Prometheus: configuration and rules", check_prometheus),
        ("Prometheus: unit tests of the rules", lambda: run(
            needed("promtool"), "test", "rules", "rules.test.yaml", folder=DEPLOY / "prometheus")),
        ("Grafana: boards are those of tools/boards.py", check_boards),
        ("Grafana: PromQL of the boards", check_promql),
    )  # fmt: skip
    failed = False
    for what, check in checks:
        started, state = time.monotonic(), "ok"
        try:
            note = check()
        except NotRun as reason:
            state, note = "NOT RUN", str(reason)
            failed = failed or bool(os.environ.get("CI"))
        except Failed as error:
            state, note, failed = "FAILED", f"\n{error}", True
        lines = note.strip().splitlines() if state == "ok" else [note]
        print(f"  {state:<8}{what:<52}{time.monotonic() - started:6.1f} s  {lines[-1] if lines else ''}", flush=True)
    return int(failed)


def run(*command: str, folder: Path = ROOT, text: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Return the output of a command. Raises Failed if it fails."""
    done = subprocess.run(
        command, cwd=folder, input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout


def tool(name: str) -> str:
    """Return a command of this environment."""
    return str(Path(sys.executable).with_name(name))


def needed(name: str) -> str:
    """Return a command of the machine. Raises NotRun if it is missing."""
    found = shutil.which(name)
    if found is None:
        raise NotRun(f"{name} is not installed")
    return found


def helm() -> str:
    """Return helm, built from the Go module proxy if the machine has none. Raises NotRun without Go 1.24 or newer."""
    made = TOOLS / "bin" / "helm"
    found = shutil.which("helm") or (str(made) if made.exists() else None)
    if found is None:
        go = needed("go")
        version = re.search(r"go1\.(\d+)", run(go, "version"))
        if version is None or int(version[1]) < 24:
            raise NotRun("helm needs Go 1.24 or newer")
        where = {"GOBIN": str(made.parent), "GOPATH": str(TOOLS / "go"), "GOCACHE": str(TOOLS / "cache")}
        run(go, "install", HELM, folder=Path(tempfile.gettempdir()), env={**where, "CGO_ENABLED": "0"})
        run("chmod", "-R", "u+w", str(TOOLS / "go"))
        shutil.rmtree(TOOLS / "go")
        shutil.rmtree(TOOLS / "cache")
        found = str(made)
    return found


# Dockerfile and compose -----------------------------------------------------------------------------------------------


def check_context() -> str:
    """Check that each file that the Dockerfile copies exists, and that .dockerignore does not exclude it."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")]
    copied = []
    for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text()):
        copied += line.split()[:-1]
    for name in copied:
        if not (ROOT / name).exists():
            raise Failed(f"the Dockerfile copies {name}, which does not exist")
        if not any(rule[1:] == name or rule[1:].startswith(f"{name}/") or name.startswith(f"{rule[1:]}/")
                   for rule in rules):  # fmt: skip
            raise Failed(f".dockerignore leaves out {name}, which the Dockerfile copies")
    return f"{len(copied)} names"


def compose_files() -> list[Path]:
    """Return the compose files."""
    return sorted(DEPLOY.glob("compose*.yaml"))


def check_compose() -> str:
    """Check the compose files against the schema of the Compose specification."""
    files = list(map(str, compose_files()))
    return run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *files)


def check_references() -> str:
    """Check that services, volumes, files and variables that a compose file names exist."""
    for path in compose_files():
        text = path.read_text()
        document = yaml.safe_load(text)
        services, volumes = document["services"], document.get("volumes", {})
        for name, service in services.items():
            missing = set(service.get("depends_on", ())) - set(services)
            for volume in service.get("volumes", ()):
                source = volume.partition(":")[0]
                exists = (path.parent / source).exists() if source.startswith(".") else source in volumes
                missing |= set() if exists else {source}
            if missing:
                raise Failed(f"{path.name}: {name} names {', '.join(sorted(missing))}, which does not exist")
        unset = {
            name
            for found in re.findall(r"(?<!\$)\$\{([A-Z_]+)(?=\})", text)
            for name in [found]
        }  # fmt: skip
        if unset:
            raise Failed(f"{path.name}: variables without a default or an error: {', '.join(sorted(unset))}")
    return "compose itself has not read them"


# Chart ----------------------------------------------------------------------------------------------------------------


def check_lint() -> str:
    """Run helm lint for each mode."""
    for options in VALUES.values():
        run(helm(), "lint", "--strict", "--kube-version", KUBERNETES[-1], str(CHART), *options)
    return ", ".join(VALUES)


def rendered(options: Sequence[str], version: str) -> Iterator[dict[str, Any]]:
    """Yield the objects that the chart creates."""
    text = run(helm(), "template", "plant", str(CHART), "--kube-version", version, *options)
    yield from (each for each in yaml.safe_load_all(text) if each)


def check_chart() -> str:
    """Check the rendered objects against the schemas of two versions of Kubernetes, and their references."""
    count = 0
    for version in KUBERNETES:
        for mode, options in VALUES.items():
            objects = list(rendered(options, version))
            known = [each for each in objects if each["kind"] not in CUSTOM]
            text = yaml.safe_dump_all(known)
            minor = version.rpartition(".")[0]
            run(tool("kubernetes-validate"), "--strict", "--version", minor, "-", text=text)
            check_objects(mode, objects)
            count += len(objects)
    return f"{count} objects"


def check_objects(mode: str, objects: Sequence[Mapping[str, Any]]) -> None:
    """Check that each pod is confined, each StatefulSet has probes and its service, and selectors select pods."""
    pods = [each["spec"]["template"] for each in objects if each["kind"] in ("StatefulSet", "Job")]
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for pod in pods:
        spec = pod["spec"]
        if not spec["securityContext"]["runAsNonRoot"]:
            raise Failed(f"{mode}: a pod may run as root")
        for container in spec["containers"] + spec.get("initContainers", []):
            context = container["securityContext"]
            if context["allowPrivilegeEscalation"] or not context["readOnlyRootFilesystem"]:
                raise Failed(f"{mode}: {container['name']} is not confined")
            if "limits" not in container["resources"]:
                raise Failed(f"{mode}: {container['name']} has no limits")
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] == "StatefulSet":
            container = spec["template"]["spec"]["containers"][0]
            if not {"livenessProbe", "readinessProbe", "startupProbe"} <= set(container):
                raise Failed(f"{mode}: {each['metadata']['name']} lacks a probe")
            if ("Service", spec["serviceName"]) not in names:
                raise Failed(f"{mode}: the service {spec['serviceName']} does not exist")
        selector = spec.get("selector", spec.get("podSelector"))
        if selector and each["kind"] != "ServiceMonitor":
            wanted = selector.get("matchLabels", selector)
            if not any(wanted.items() <= pod["metadata"]["labels"].items() for pod in pods):
                raise Failed(f"{mode}: {each['kind']} {each['metadata']['name']} selects no pod")


def check_refusals() -> str:
    """Check that wrong values fail with the name of the value."""
    wrong = {
        "mode=both": "mode",
        "mode=services": "kafka.address",
        "partitions=0": "partitions",
        "settings.API_KEY=x": "API_KEY",
        "symbols={A B}": "symbols",
    }
    for value, name in wrong.items():
        command = [helm(), "template", "x", str(CHART), "--kube-version", KUBERNETES[-1], "--set", value]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 or name not in done.stderr:
            raise Failed(f"--set {value} is not refused by name: {done.stderr}")
    return f"{len(wrong)} values"


# systemd --------------------------------------------------------------------------------------------------------------


def check_unit() -> str:
    """Verify the unit. Its command is not installed on this machine, so `/bin/true` replaces the command."""
    with tempfile.TemporaryDirectory() as name:
        unit = Path(name) / "tickerplant.service"
        text = (DEPLOY / "systemd" / "tickerplant.service").read_text()
        unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text))
        output = run(needed("systemd-analyze"), "verify", "--man=no", str(unit))
    if unit.name in output:
        raise Failed(output)
    return ""


def check_security() -> str:
    """Check that systemd rates the exposure of the unit below 2.5 of 10."""
    unit = DEPLOY / "systemd" / "tickerplant.service"
    output = run(needed("systemd-analyze"), "security", "--offline=true", "--threshold=25", "--no-pager", str(unit))
    return next((line for line in output.splitlines() if "exposure level" in line), "").strip("→ ")


# Prometheus and Grafana -----------------------------------------------------------------------------------------------


def check_prometheus() -> str:
    """Check the configuration, the rules and their names."""
    return run(needed("promtool"), "check", "config", "prometheus.yml", folder=DEPLOY / "prometheus")


def check_boards() -> str:
    """Compare the boards with their source, and parse them with Grafana's own types."""
    from grafana_foundation_sdk.models.dashboard import Dashboard

    for path, text in boards.files().items():
        if path.read_text() != text:
            raise Failed(f"{path} differs from tools/boards.py; run python tools/boards.py")
        board = Dashboard.from_json(json.loads(text))
        if not board.panels or board.uid is None:
            raise Failed(f"{path} is no board")
    return f"{len(boards.BOARDS)} boards"


def check_promql() -> str:
    """Parse every PromQL query of the boards, as expressions of recording rules."""
    queries = [query for board in boards.BOARDS for panel in board.panels for query, _ in panel.queries]
    rules = [{"record": f"board:query:{number}", "expr": query} for number, query in enumerate(queries)]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "boards.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}))
        run(needed("promtool"), "check", "rules", str(path))
    return f"{len(queries)} queries"


if __name__ == "__main__":
    sys.exit(main())
