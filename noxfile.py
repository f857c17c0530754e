"""Everything that can be done with this repository: `nox -l` lists it, `nox -s NAME -- options` does it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import nox

HERE = Path(__file__).parent
PACKAGES = [f"packages/{name}" for name in ("core", "parallel", "layers", "experiments")]
NAMESPACES = [f"eyas.{Path(package).name}" for package in PACKAGES]
PINNED = ("-c", "constraints.txt")
SWEEP_TOOLS = ("hydra-joblib-launcher", "hydra-submitit-launcher", "hydra-optuna-sweeper")
"""The extra `sweeps` of eyas-experiments."""
OTHER_EXTRAS = ("wandb", "mlflow-skinny", "lm_eval")
TEST_TOOLS = (
    "pytest", "hypothesis", "nox", "transformers", "hatchling", "mkdocs-material", *SWEEP_TOOLS, *OTHER_EXTRAS,
)  # fmt: skip

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]


@nox.session
def quickstart(session: nox.Session) -> None:
    """Make .nox/quickstart, which has the `eyas` command, and train a small Falcon-H1 (-- trainer.max_steps=50 ...)."""
    install(session)
    session.run("eyas", "train", "experiment=quickstart", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests (-- -k scan, or any other option of pytest)."""
    install(session, *TEST_TOOLS)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def proofs(session: nox.Session) -> None:
    """Run at length what draws its cases, with many of them each, and what is too slow for `tests`: under an hour."""
    install(session, *TEST_TOOLS)
    drawing = ("-m", "(slow or hypothesis) and not gpu", "--durations=30")
    session.run("python", "-m", "pytest", *drawing, *session.posargs, env={"EYAS_PROFILE": "proofs"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style (ruff), types (mypy) and the direction of imports."""
    install(session, "ruff", "mypy", "pytest", "hypothesis")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy", *(word for name in NAMESPACES for word in ("-p", name)))
    session.run("python", "-m", "pytest", "--noconftest", "-q", "tests/test_import_direction.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/, which opens from disk without a network (begin at site/index.html)."""
    install(session, "mkdocs-material")
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks, or one of them (-- ssd --sizes small)."""
    install(session, "transformers")
    name, *options = session.posargs or [None]
    scripts = sorted(path for path in HERE.glob("benchmarks/*.py") if 'if __name__ == "__main__":' in path.read_text())
    chosen = [path for path in scripts if name in (None, path.stem)]
    if not chosen:
        session.error(f"there is no benchmark {name!r}; choose from {', '.join(path.stem for path in scripts)}")
    if any(path.stem == "ssd" for path in chosen):
        install_mamba_ssm(session)
    for path in chosen:
        session.run("python", str(path), *options)


@nox.session(reuse_venv=False)
def wheels(session: nox.Session) -> None:
    """Build the four wheels into dist/ and train with them in a new environment, away from the source."""
    dist, elsewhere = HERE / "dist", Path(session.create_tmp()).resolve()
    shutil.rmtree(dist, ignore_errors=True)
    install_torch(session)
    session.install(*PINNED, "hatchling")
    session.run(
        "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(dist), *local(PACKAGES), silent=True
    )
    built = sorted(dist.glob("eyas_*.whl"))
    check_contents(session, built)
    session.install(*PINNED, *map(str, built))
    shutil.rmtree(elsewhere)
    elsewhere.mkdir()
    with session.chdir(elsewhere):
        where = "import eyas.experiments.conf_tree as c; print(c.__file__, c.conf_folder())"
        places = session.run("python", "-P", "-c", where, silent=True, log=False)
        if not isinstance(places, str) or any(
            Path(place).is_relative_to(HERE / "packages") for place in places.split()
        ):
            session.error(f"the wheels are not what is used, but {places}")
        session.run("eyas", "--help", silent=True)
        session.run("eyas", "models", silent=True)
        session.run("eyas", "new-mixer", "probe")
        session.run("eyas", "train", *SMALL, "runs=runs")
        session.run("eyas", "results", "runs/run")


SMALL = (
    "model=falcon_h1_tiny", "model.repeat=1", "data.sequence_length=64",
    "trainer.max_steps=5", "trainer.global_batch=4", "trainer.microbatch=2",
)  # fmt: skip
"""A training of seconds."""


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Run the tests that need a GPU, with the Python and the packages that nox itself runs in."""
    ask = "import importlib.util as u; print(u.find_spec('torch') and __import__('torch').cuda.is_available())"
    answer = session.run(sys.executable, "-c", ask, silent=True, log=False, external=True)
    if str(answer).strip() != "True":
        session.skip(f"no GPU is visible to torch in {sys.executable}; start nox with the Python of a GPU host")
    session.run(sys.executable, "-m", "pytest", "-m", "gpu", *session.posargs, external=True)


def install(session: nox.Session, *tools: str) -> None:
    """Installs the four packages, editable, at the pinned versions; torch first, so that the rest takes its build."""
    install_torch(session)
    session.install(*PINNED, *tools, *(word for package in local(PACKAGES) for word in ("-e", package)))


def install_torch(session: nox.Session) -> None:
    """Installs the torch that pip finds, or where that would bring CUDA to a machine without a driver for it the build
    for CPUs, a tenth of the size. uv knows where those are kept; pip would have to be told."""
    if not has_nvidia_driver() and brings_cuda(session):
        session.install(*PINNED, "uv")
        uv_install = ("uv", "pip", "install", "--python", f"{session.bin}/python", "--torch-backend", "cpu")
        session.run_install(*uv_install, "--no-deps", *PINNED, "torch")  # what it needs comes from pip's index
    session.install(*PINNED, "torch")


def has_nvidia_driver() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def brings_cuda(session: nox.Session) -> bool:
    """Whether pip would install a torch that asks for CUDA's libraries; not where torch is there already."""
    report = Path(session.virtualenv.location, "torch.json")
    ask = ("pip", "install", "--dry-run", "--no-deps", "--quiet", "--report", str(report))
    if session.run_install(*ask, *PINNED, "torch", silent=True) is None:  # nox -R installs nothing
        return False
    to_install = json.loads(report.read_text())["install"]
    needs = [need for distribution in to_install for need in distribution["metadata"]["requires_dist"]]
    return any(need.startswith(("cuda-", "nvidia-")) for need in needs)


def install_mamba_ssm(session: nox.Session) -> None:
    """Installs mamba-ssm without its CUDA kernels, in a folder of the environment that only benchmarks/ssd.py looks
    into: transformers calls its kernels wherever it can be imported, for tensors on a CPU too."""
    apart = Path(session.virtualenv.location, "references")
    pin = next(line for line in (HERE / PINNED[1]).read_text().splitlines() if line.startswith("mamba-ssm=="))
    if (apart / f"mamba_ssm-{pin.partition('==')[2]}.dist-info").exists():
        return
    session.install(*PINNED, "einops", "packaging", "setuptools", "wheel")
    session.install(
        *PINNED, "--no-deps", "--no-build-isolation", "--target", str(apart), "--upgrade", "mamba-ssm",
        "--no-cache-dir",  # a wheel without kernels is not to be taken later where they are wanted
        env={"MAMBA_SKIP_CUDA_BUILD": "TRUE", "MAMBA_FORCE_BUILD": "TRUE"},
    )  # fmt: skip


def local(packages: list[str]) -> list[str]:
    """Paths that pip does not take for names of an index."""
    return [f".{os.sep}{package}" for package in packages]


def check_contents(session: nox.Session, built: list[Path]) -> None:
    """Stops the session unless the wheels hold the licence, py.typed and, in the last package's, all of conf/, the
    example mixer and what the report is made of."""
    if len(built) != len(PACKAGES):
        session.error(
            f"{len(PACKAGES)} wheels were to be built, not {len(built)}: {', '.join(path.name for path in built)}"
        )
    for path in built:
        names = zipfile.ZipFile(path).namelist()
        for ending in ("/py.typed", "/licenses/LICENSE"):
            if not any(name.endswith(ending) for name in names):
                session.error(f"{path.name} has no *{ending}")
        if path.name.startswith("eyas_experiments-"):
            shipped = {file.relative_to(HERE).as_posix() for file in HERE.glob("conf/**/*.yaml")}
            example = HERE / "examples" / "gated_conv"
            files = ("pyproject.toml", "README.md", "src/*.py", "tests/test_gated_conv.py")
            shipped |= {f"example/{found.relative_to(example)}" for part in files for found in example.glob(part)}
            report = HERE / "packages/experiments/src/eyas/experiments/report"
            shipped |= {f"report/{found.name}" for kind in ("js", "css") for found in report.glob(f"*.{kind}")}
            missing = shipped - {name.removeprefix("eyas/experiments/") for name in names}
            if missing:
                session.error(f"{path.name} lacks {', '.join(sorted(missing))}")
