"""docs/design.md says what is so: the rooms it draws exist, and they import only what it allows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
#: What every room may use.
EVERYWHERE = {
    "harness._version",
    "harness.errors",
    "harness.host",
    "harness.wholefile",
    "harness.yamlfile",
}


def drawn() -> dict[Path, bool]:
    """Every path of the drawing, and whether the line marks it as planned."""
    drawing = PAGE.split("## 2. The rooms")[1].split("Who may import whom")[0]
    found: dict[Path, bool] = {}
    folders: dict[int, Path] = {}
    for line in drawing.splitlines():
        if not (match := re.match(r"( {4,8})((?:[\w./-]+ {1,2})*[\w./-]+)(?: {2,}(.*))?$", line)):
            continue
        indent, names, text = len(match[1]), match[2].split(), match[3] or ""
        parent = next((folders[i] for i in range(indent - 1, 3, -1) if i in folders), ROOT)
        for name in names:
            found[parent / name] = text.startswith("later")
        folders = {i: path for i, path in folders.items() if i < indent} | {indent: parent / names[-1]}
    return found


def allowed() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `(\w+)` \|([^|\n]*)\|$", PAGE, re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", imports)) for room, imports in rows}


def test_what_is_drawn_is_there_and_what_comes_later_is_not() -> None:
    paths = drawn()
    assert ROOT / "harness" / "api.py" in paths
    assert ROOT / "agents" / "protocol" in paths
    for path, later in paths.items():
        assert path.exists() != later, path.relative_to(ROOT)


def test_every_room_is_drawn() -> None:
    rooms = {path.parent for path in (ROOT / "harness").glob("*/__init__.py")}
    assert rooms <= set(drawn())
    modules = set((ROOT / "harness").glob("*.py")) - {ROOT / "harness" / f"{n}.py" for n in ("__init__", "__main__")}
    assert {path.name for path in modules - set(drawn())} == {"_version.py"}


def test_rooms_import_only_what_the_page_allows() -> None:
    table = allowed()
    rooms = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    assert set(table) == rooms - {"cli", "pytest_plugin", "demo", "app"}  # front doors and what they ship
    for room, others in table.items():
        for path in (ROOT / "harness" / room).rglob("*.py"):
            for name in imported(path):
                inside = name.split(".")[1] if name.count(".") else ""
                by_right = inside in {room, *others} or name in EVERYWHERE or inside == ""
                values = inside == "record"  # a room of values only
                job = name == "harness.job" and room in {"runs", "history", "evidence"}
                assert by_right or values or job, f"{path.relative_to(ROOT)} imports {name}"


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("harness"):
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("harness")}
    return names


def test_links_lead_somewhere_and_nothing_outside_is_named() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    for word in re.findall(r"`((?:docs|facts|shared)/[\w./-]+)`", PAGE):
        assert (ROOT / word).exists(), word
