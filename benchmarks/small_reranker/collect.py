"""Reads every source and writes one file of titled texts for training and one for the set of another kind."""

import itertools
import zipfile
from collections import Counter
from pathlib import Path

from benchmarks.small_reranker import sources_debian, sources_prose, sources_python
from benchmarks.small_reranker.texts import Pair, unique, write_pairs

# Debian packages whose contents are unpacked below DEBS, and PyPI packages unpacked below WHEELS (see README.md).
DEBIAN_PACKAGES = (
    "wordnet-base", "dict-gcide", "dict-foldoc", "python3.11-doc", "libreoffice-help-en-us", "debian-handbook",
    "gnome-user-docs", "perl-doc",
)  # fmt: skip
PYPI_PACKAGES = (
    "astropy", "beautifulsoup4", "dask", "flask", "matplotlib", "networkx", "nltk", "numpy", "pandas", "pillow",
    "requests", "scikit-image", "scikit-learn", "scipy", "sqlalchemy", "statsmodels", "xarray",
)  # fmt: skip


def unpack_wheels(wheels: Path, target: Path) -> None:
    """Only the Python files: docstrings are all that is read."""
    for wheel in sorted(wheels.glob("*.whl")):
        folder = target / wheel.name.split("-")[0]
        if not folder.exists():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".py")])


def training_pairs(lists: Path, packages: Path, wheels: Path) -> list[Pair]:
    streams = [
        sources_debian.package_descriptions(lists),
        sources_debian.manual_pages(),
        sources_python.standard_library(),
        sources_python.python_manual(packages / "python3.11-doc"),
        sources_prose.wordnet(packages),
        sources_prose.webster(packages),
        sources_prose.foldoc(packages),
        sources_prose.office_help(packages),
        sources_prose.debian_handbook(packages),
    ]
    streams += [sources_python.docstring_pairs(path.name, path) for path in sorted(wheels.iterdir())]
    return list(unique(itertools.chain(*streams)))


def collect(lists: Path, packages: Path, wheels: Path, output: Path) -> None:
    """Writes ``pairs.jsonl`` and ``other_pairs.jsonl`` below ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    unpacked = output / "wheels"
    unpack_wheels(wheels, unpacked)
    pairs = training_pairs(lists, packages, unpacked)
    write_pairs(output / "pairs.jsonl", pairs)
    other = list(unique(itertools.chain(sources_prose.perl_faq(packages), sources_prose.gnome_help(packages))))
    write_pairs(output / "other_pairs.jsonl", other)
    for source, count in sorted(Counter(pair.source for pair in [*pairs, *other]).items()):
        print(f"{source:12s} {count:7d}")
