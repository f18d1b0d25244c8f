"""Do the vendored operator schemas equal those inside a torch_npu wheel, and does it have the functions that we call?

    pip download torch-npu==2.13.0 --no-deps --platform manylinux_2_28_x86_64 --only-binary :all: --dest wheels
    python -m tests.npu.compare_schemas wheels/torch_npu-2.13.0-*.whl

The wheel is only read: neither torch_npu nor CANN is needed. Inside it, the schemas are in
``torch_npu/csrc/aten/npu_native_functions_by_codegen.yaml`` or, in some versions, ``npu_native_functions.yaml``.
"""

from __future__ import annotations

import ast
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENDORED = Path(__file__).parent / "npu_op_schemas.txt"
USE = re.compile(r"(?:torch_npu\.npu|self\._npu)\.(\w+)")
FUNC = re.compile(r"^\s*-?\s*func:\s*(?P<schema>.+?)\s*$", re.MULTILINE)


def name_of(schema: str) -> str:
    return schema.partition("(")[0].strip()


def vendored_schemas() -> dict[str, str]:
    lines = [line.strip() for line in VENDORED.read_text(encoding="utf-8").splitlines()]
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


def differences(wheel: Path) -> list[str]:
    inside = schemas_of_wheel(wheel)
    if not inside:
        return [f"{wheel.name} holds no operator schemas"]
    problems = []
    for name, schema in vendored_schemas().items():
        theirs = inside.get(name, set())
        if not theirs:
            problems.append(f"{name} is not in {wheel.name}")
        elif normalised(schema) not in {normalised(other) for other in theirs}:
            problems.append(f"{name} differs\n  vendored {schema}\n  wheel    " + "\n           ".join(sorted(theirs)))
    return problems


def used_functions() -> set[str]:
    """What the product calls of ``torch_npu.npu``."""
    files = [path for folder in ("backends/npu", "kernels/npu") for path in (ROOT / folder).glob("*.py")]
    return {name for path in files for name in USE.findall(path.read_text(encoding="utf-8"))}


def missing_functions(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read("torch_npu/npu/__init__.py"))
    exported: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            exported = set(ast.literal_eval(node.value))
    return [f"torch_npu.npu.{name} is not in {wheel.name}" for name in sorted(used_functions() - exported)]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    wheel = Path(arguments[0])
    problems = [*differences(wheel), *missing_functions(wheel)]
    found = f"{wheel.name} has all {len(vendored_schemas())} vendored schemas and {len(used_functions())} functions"
    print("\n".join(problems) or found)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
