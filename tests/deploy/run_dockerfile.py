"""Runs a Dockerfile step by step in a chroot, where no builder is at hand. Needs root; Linux only.

    python -m tests.deploy.run_dockerfile deploy/Dockerfile --root BASE --work FOLDER --arg DEVICE=cpu

``BASE`` is a root file system that stands for every ``FROM`` (debootstrap makes one). Each stage is a copy of it;
``RUN`` is executed in it, ``COPY`` copies from the checkout (tracked files) or from the stage named, and at the end the
image's own command is run as its user, with ``--then`` instead of its arguments if given. ``--bind`` shows a path of
this machine inside. What it does not show: the real base image, layers, a registry. benchmarks/LOG.md records what was
run.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.architecture.source_tree import ROOT

IGNORED = ("EXPOSE", "HEALTHCHECK")


@dataclass
class Stage:
    """One ``FROM`` and what stands below it."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, rest), with comments taken out and continued lines joined."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", kept)
    split = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest.strip()) for word, _, rest in split]


def filled(text: str, values: dict[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced, as Docker does outside of ``RUN``."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], ""), text)


class Runner:
    """Executes the instructions of one file."""

    def __init__(self, base: Path, work: Path, args: dict[str, str], binds: list[str]) -> None:
        self._base, self._work, self._given, self._binds = base, work, args, binds
        self._global: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}
        self._stage: Stage | None = None

    @property
    def stage(self) -> Stage:
        assert self._stage is not None, "FROM comes first"
        return self._stage

    def execute(self, word: str, rest: str) -> None:
        """One instruction; a ``RUN`` that fails raises ``CalledProcessError``."""
        handler = getattr(self, f"_{word.lower()}", None)
        if handler is None and word not in IGNORED:
            raise SystemExit(f"{word} is not known here")
        started = time.monotonic()
        print(f"==> {word} {rest}", flush=True)
        if handler is not None:
            handler(rest)
            print(f"    ok, {time.monotonic() - started:.0f} s", flush=True)

    def _arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        if self._stage is None:
            self._global[name] = self._given.get(name, default)
        else:
            self._stage.args[name] = self._given.get(name, default or self._global.get(name, ""))

    def _from(self, rest: str) -> None:
        image, _, name = filled(rest, self._global).partition(" AS ")
        root = self._work / (name or f"stage{len(self._stages)}")
        print(f"    {image} is played by {self._base}")
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self._base), str(root)], check=True)
        self._stage = self._stages[name or str(len(self._stages))] = Stage(
            root, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        )

    def _env(self, rest: str) -> None:
        for item in shlex.split(filled(rest, self.stage.env | self.stage.args)):
            name, _, value = item.partition("=")
            self.stage.env[name] = value

    def _workdir(self, rest: str) -> None:
        self.stage.folder = rest
        (self.stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _user(self, rest: str) -> None:
        self.stage.user = rest

    def _copy(self, rest: str) -> None:
        *flags, source, target = rest.split()
        place = self.stage.root / (Path(self.stage.folder) / target).as_posix().lstrip("/")
        if flags:
            (name,) = (flag.removeprefix("--from=") for flag in flags)
            place.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", str(self._stages[name].root / source.lstrip("/")), str(place)], check=True)
            return
        assert (source, target) == (".", "."), "only the whole checkout"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-C", str(ROOT), "--null", "-T", "-", "-cf", str(self._work / "context.tar")],
                       input=listed, check=True)  # fmt: skip
        subprocess.run(["tar", "-C", str(place), "-xf", str(self._work / "context.tar")], check=True)

    def _run(self, rest: str) -> None:
        self.inside(["/bin/sh", "-c", rest], self.stage.args).check_returncode()

    def _entrypoint(self, rest: str) -> None:
        self.stage.entrypoint = json.loads(rest)

    def _cmd(self, rest: str) -> None:
        self.stage.command = json.loads(rest)

    def inside(self, words: list[str], more: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        """A command in the chroot of the present stage, in a mount namespace of its own."""
        root = shlex.quote(str(self.stage.root))
        mounts = ["mount -t proc proc {0}/proc", "mount --rbind /dev {0}/dev", "cp -L /etc/resolv.conf {0}/etc/"]
        for path in self._binds:
            kind = "mkdir -p" if Path(path).is_dir() else "touch"
            mounts += [f"mkdir -p {{0}}{Path(path).parent}", f"{kind} {{0}}{path}", f"mount --bind {path} {{0}}{path}"]
        program = f"cd {shlex.quote(self.stage.folder)} && exec " + shlex.join(words)
        if self.stage.user != "root":
            program = f"exec setpriv --reuid {self.stage.user} --regid {self.stage.user} --clear-groups sh -c " + (
                shlex.quote(program)
            )
        script = " && ".join([*mounts, "exec chroot {0} /bin/sh -c {1}"]).format(root, shlex.quote(program))
        env = self.stage.env | more | {"HOME": "/root" if self.stage.user == "root" else f"/home/{self.stage.user}"}
        return subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", script], env=env, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--arg", action="append", default=[])
    parser.add_argument("--bind", action="append", default=[])
    parser.add_argument("--then", help="words of the image's command, instead of those of CMD")
    given = parser.parse_args()
    runner = Runner(given.root, given.work, dict(one.split("=", 1) for one in given.arg), given.bind)
    for word, rest in instructions(given.file.read_text()):
        runner.execute(word, rest)
    words = [*runner.stage.entrypoint, *(shlex.split(given.then) if given.then else runner.stage.command)]
    print(f"==> {shlex.join(words)}", flush=True)
    sys.exit(runner.inside(words, {}).returncode)


if __name__ == "__main__":
    main()
