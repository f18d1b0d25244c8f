"""Do the vendored operator schemas equal those inside a torch_npu wheel, and does it have the functions that we call?

    pip download torch-npu==2.12.0 --no-deps --platform manylinux_2_28_x86_64 --only-binary :all: --dest wheels
    python -m tests.npu.compare_schemas wheels/torch_npu-*.whl

A wheel is compared with the schemas of its own version, or of the nearest one that is vendored. It is only read:
neither torch_npu nor CANN is needed. Inside it, the schemas are in
``torch_npu/csrc/aten/npu_native_functions_by_codegen.yaml`` or, in some versions, ``npu_native_functions.yaml``.
"""

from __future__ import annotations

import ast
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENDORED = Path(__file__).parent / "schemas"
USE = re.compile(r"(?:torch_npu\.npu|self\._npu)\.(?!utils\b)(\w+)")
UTILITY = re.compile(r"from torch_npu\.npu\.utils import (\w+)")
FUNC = re.compile(r"^\s*-?\s*func:\s*(?P<schema>.+?)\s*$", re.MULTILINE)
WHEEL = re.compile(r"torch_npu-(?P<version>[^-]+)-")


def name_of(schema: str) -> str:
    return schema.partition("(")[0].strip()


def versions() -> list[str]:
    """Those whose schemas are vendored, oldest first."""
    return sorted((path.stem for path in VENDORED.glob("*.txt")), key=order_of)


def order_of(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def nearest(version: str) -> str:
    """The vendored version itself, or the newest that is not newer."""
    older = [known for known in versions() if order_of(known) <= order_of(version)]
    return older[-1] if older else versions()[0]


def vendored_schemas(version: str) -> dict[str, str]:
    lines = [line.strip() for line in (VENDORED / f"{version}.txt").read_text(encoding="utf-8").splitlines()]
    return {name_of(line): line for line in lines if line and not line.startswith("#")}


def schemas_of_wheel(wheel: Path) -> dict[str, set[str]]:
    """By name, every schema that some YAML file of the wheel gives it."""
    found: dict[str, set[str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.endswith(".yaml") and "native_functions" in member:
                for match in FUNC.finditer(archive.read(member).decode("utf-8")):
                    schema = match["schema"].strip("'\"")
                    found.setdefault(name_of(schema), set()).add(schema)
    return found


def normalised(schema: str) -> str:
    """Quotes and spaces as YAML may change them."""
    return re.sub(r"\s+", " ", schema.replace('"', "'")).strip()


def version_of(wheel: Path) -> str:
    """Of a wheel's name; the newest vendored one where the name has none."""
    found = WHEEL.match(wheel.name)
    return found["version"] if found else versions()[-1]


def differences(wheel: Path) -> list[str]:
    inside = schemas_of_wheel(wheel)
    if not inside:
        return [f"{wheel.name} holds no operator schemas"]
    problems = []
    for name, schema in vendored_schemas(nearest(version_of(wheel))).items():
        theirs = inside.get(name, set())
        if not theirs:
            problems.append(f"{name} is not in {wheel.name}")
        elif normalised(schema) not in {normalised(other) for other in theirs}:
            problems.append(f"{name} differs\n  vendored {schema}\n  wheel    " + "\n           ".join(sorted(theirs)))
    return problems


def used_functions() -> set[str]:
    """What the product calls of ``torch_npu.npu``."""
    return _found(USE)


def used_utilities() -> set[str]:
    """What it calls of ``torch_npu.npu.utils``."""
    return _found(UTILITY)


def _found(pattern: re.Pattern[str]) -> set[str]:
    files = [path for folder in ("backends/npu", "kernels/npu") for path in (ROOT / folder).glob("*.py")]
    return {name for path in files for name in pattern.findall(path.read_text(encoding="utf-8"))}


def missing_functions(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        exported = _exported(archive.read("torch_npu/npu/__init__.py"))
        utilities = _exported(archive.read("torch_npu/npu/utils.py"))
    missing = [f"torch_npu.npu.{name}" for name in sorted(used_functions() - exported)]
    missing += [f"torch_npu.npu.utils.{name}" for name in sorted(used_utilities() - utilities)]
    return [f"{name} is not in {wheel.name}" for name in missing]


def _exported(source: bytes) -> set[str]:
    exported: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            exported = set(ast.literal_eval(node.value))
    return exported


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    all_problems = []
    for wheel in map(Path, arguments):
        problems = [*differences(wheel), *missing_functions(wheel)]
        all_problems += problems
        vendored = nearest(version_of(wheel))
        num_used = len(used_functions() | used_utilities())
        count = len(vendored_schemas(vendored))
        found = f"{wheel.name} has all {count} vendored schemas of {vendored} and {num_used} functions"
        print("\n".join(problems) or found)
    return 1 if all_problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
