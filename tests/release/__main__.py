"""`python -m tests.release`: check that this tree can be released. It needs the network, for pip.

The changelog has the version, with a date. The wheel and the sdist are built from the files that git knows. Each of them is installed into
an environment of its own, in a directory of its own, and does there what smoke.py says. Exit status: 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from redisaq.identity import VERSION
from tests.release import artifacts, changelog
from tests.unit.source import ROOT

SMOKE = Path(__file__).with_name("smoke.py")
EXTRAS = "[cli,cron,embedded,trio]"
BUILD = "build>=1.2"


def environment(directory: Path) -> Path:
    """Make a virtual environment, and return its Python."""
    venv.create(directory, with_pip=True)
    return directory / "bin" / "python"


def run(*words: str | Path, where: Path) -> None:
    """Run a command to its end, and show it."""
    print("$", *words, flush=True)
    subprocess.run(words, check=True, cwd=where)


def files_of_git(destination: Path) -> Path:
    """Copy the files that git knows, as they are here, so that no other file gets into what is built."""
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            (destination / name).write_bytes((ROOT / name).read_bytes())
            (destination / name).chmod((ROOT / name).stat().st_mode)
    return destination


def built(work: Path) -> list[Path]:
    """Build the wheel and the sdist, and return them."""
    python = environment(work / "build-environment")
    run(python, "-m", "pip", "install", "--quiet", BUILD, where=work)
    run(python, "-m", "build", "--outdir", work / "dist", files_of_git(work / "tree"), where=work)
    return sorted((work / "dist").iterdir())


def try_out(artifact: Path, work: Path) -> None:
    """Install an artifact into a new environment, far from this tree, and use it."""
    place = work / f"try-{artifact.suffix.strip('.')}"
    python = environment(place / "environment")
    run(python, "-m", "pip", "install", "--quiet", f"{artifact}{EXTRAS}", "pytest", where=place)
    run(python, "-m", "pip", "check", where=place)
    run(python, "-W", "error", SMOKE, VERSION, where=place)


def main() -> int:
    """Check everything, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("--undated", action="store_true", help="let the changelog say that the version is not released yet")
    options = parser.parse_args()
    wrong = changelog.problems((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), VERSION, dated=not options.undated)
    with tempfile.TemporaryDirectory(prefix="redisaq-release-") as directory:
        made = built(Path(directory))
        wrong += artifacts.problems(made, VERSION, ROOT)
        for artifact in made:
            try:
                try_out(artifact, Path(directory))
            except subprocess.CalledProcessError as error:
                wrong.append(f"{artifact.name}: {error}")
    for line in wrong:
        print("WRONG:", line)
    print(f"redisaq {VERSION}: {'not to be released' if wrong else 'ready'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
