"""docs/state-diagrams says what the declarations say, and says all of it.

No test needs `dot`: a PATH without it, or with a stub, stands in for it.
"""

import inspect
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transitions.extensions import diagrams_graphviz

from backfold.engine import diagram, state_docs
from backfold.engine.creation_run import CreationRun
from backfold.engine.deletion_run import DeletionModel, DeletionRun
from backfold.engine.reversion_run import ReversionRun
from backfold.engine.runner import announces, crash_points
from backfold.engine.seeds import MACHINES
from backfold.journal.errors import CommandFailed, UsageError
from backfold.states.creation import CREATION
from backfold.states.deletion import DELETION
from backfold.states.fold import ALLOWED, FOLD
from backfold.states.machine import Declaration, Edge, Step
from backfold.states.reversion import REVERSION

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/state-diagrams"
SNAKE_CASE = re.compile(r"[a-z]+(_[a-z]+)*")

every_machine = pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)


def label(edge: Edge) -> str:
    guards = " & ".join(edge.guards)
    return f"{edge.trigger} [{guards}]" if guards else edge.trigger


def labels(pattern: str, text: str) -> set[tuple[str, str, str]]:
    """The edges of a drawn text, one for each of the labels that share an arrow."""
    return {
        (source, dest, one.strip())
        for source, dest, all_of_them in re.findall(pattern, text, re.MULTILINE)
        for one in all_of_them.split(" | ")
    }


def page(machine: Declaration) -> str:
    return (FOLDER / f"{machine.name}.md").read_text(encoding="utf-8")


@pytest.fixture
def no_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH; it is empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def stub_dot(folder: Path, script: str) -> None:
    program = folder / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_the_committed_documents_are_those_of_the_declarations(no_dot: Path) -> None:
    assert {} == diagram.stale(FOLDER)


def test_the_check_runs_as_a_program_without_dot(no_dot: Path) -> None:
    program = [sys.executable, "-W", "error", "-m", "backfold.engine.diagram"]

    done = subprocess.run(
        [*program, "--check", str(FOLDER)],
        env={"PATH": str(no_dot)},
        capture_output=True,
        text=True,
    )

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


@every_machine
def test_a_changed_edge_makes_the_check_fail_by_name(
    machine: Declaration, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = replace(
        machine,
        edges=(replace(machine.edges[0], trigger="go_elsewhere"), *machine.edges[1:]),
    )
    machines = [changed if each is machine else each for each in MACHINES]

    assert 1 == diagram.main(["--check", str(FOLDER)], machines)

    said = capsys.readouterr().err
    for name in (f"{machine.name}.md", f"{machine.name}.svg"):
        assert f"{FOLDER / name} " in said
    assert ("crash-points.md" in said) == (machine is not FOLD)
    assert "make diagrams" in said
    others = {each.name for each in MACHINES} - {machine.name}
    assert not [name for name in others if f"{name}.md" in said]


@every_machine
def test_a_changed_text_makes_the_check_fail_but_not_for_the_picture(
    machine: Declaration,
) -> None:
    first = replace(machine.states[0], does="Something else.")
    changed = replace(machine, states=(first, *machine.states[1:]))
    machines = [changed if each is machine else each for each in MACHINES]

    assert {f"{machine.name}.md": "differs"} == diagram.stale(FOLDER, machines)


def test_missing_and_extra_files_are_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.name for path in FOLDER.iterdir()]
    for name in set(names) - {"fold.md", "fold.svg"}:
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    (tmp_path / "old.md").touch()

    assert 1 == diagram.main(["--check", str(tmp_path)])

    said = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/fold.md is missing" in said
    assert f"{tmp_path}/fold.svg is missing" in said
    assert f"{tmp_path}/old.md is not a generated document: remove it" in said
    assert 4 == len(said)


def test_every_document_is_stale_in_a_folder_that_does_not_exist(
    tmp_path: Path,
) -> None:
    wrong = diagram.stale(tmp_path / "nowhere")

    assert {path.name for path in FOLDER.iterdir()} == wrong.keys()


def test_writing_makes_the_check_pass_and_keeps_pictures_that_are_right(
    tmp_path: Path, no_dot: Path
) -> None:
    folder = tmp_path / "a/b"
    stub_dot(no_dot, "echo '<?xml version=\"1.0\"?>'; echo '<svg>first</svg>'")

    assert 0 == diagram.main([str(folder)])
    assert {} == diagram.stale(folder)

    (folder / "fold.md").write_text("old")
    (no_dot / "dot").unlink()

    assert 0 == diagram.main([str(folder)])
    assert {} == diagram.stale(folder)
    assert "first" in (folder / "fold.svg").read_text()


def test_nothing_is_written_when_there_is_no_dot(
    tmp_path: Path, no_dot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "documents"

    assert 1 == diagram.main([str(folder)])

    assert "`graphviz`" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("script", [None, "echo broken >&2; exit 3"])
def test_an_svg_without_a_working_dot_is_an_error_with_a_remedy(
    script: str | None, no_dot: Path
) -> None:
    if script is not None:
        stub_dot(no_dot, script)

    with pytest.raises(CommandFailed) as failure:
        diagram.render("deletion", "svg")

    assert "`graphviz`" in failure.value.remedy
    assert script is None or "status 3: broken" in failure.value.what


def test_an_svg_carries_the_hash_of_its_dot_text(no_dot: Path) -> None:
    stub_dot(no_dot, "echo '<?xml version=\"1.0\"?>'; echo '<svg>x</svg>'")
    first = diagram.render("fold", "svg")
    again = diagram.svg(diagram.render("fold", "dot"))
    other = diagram.svg(diagram.render("fold", "dot") + "\n")

    assert first == again
    assert diagram.svg_hash(first) != diagram.svg_hash(other)
    ET.fromstring(first)


@every_machine
def test_the_committed_pictures_are_svg_and_name_every_state(
    machine: Declaration,
) -> None:
    root = ET.parse(FOLDER / f"{machine.name}.svg").getroot()

    texts = {one.strip() for text in root.itertext() for one in text.split(" | ")}
    assert {state.name for state in machine.states} <= texts
    assert {label(edge) for edge in machine.edges} <= texts


@pytest.mark.parametrize(
    ("machine", "format", "active"),
    [
        ("delete", "dot", None),
        ("", "mermaid", None),
        ("deletion", "png", None),
        ("deletion", "", None),
        ("fold", "mermaid", "vote"),
    ],
)
def test_unknown_names_are_usage_errors_that_say_what_there_is(
    machine: str, format: str, active: str | None
) -> None:
    with pytest.raises(UsageError) as failure:
        diagram.render(machine, format, active)

    assert failure.value.remedy.startswith("Use one of: ")


@every_machine
def test_every_edge_is_in_both_texts(machine: Declaration) -> None:
    declared = {(edge.source, edge.dest, label(edge)) for edge in machine.edges}
    mermaid = diagram.render(machine.name, "mermaid")
    dot = diagram.render(machine.name, "dot")

    assert declared == labels(r"^  (\w+) --> (\w+): (.+)$", mermaid)
    assert declared == labels(r'^\t(\w+) -> (\w+) \[label="([^"]*)"', dot)


@every_machine
def test_both_texts_show_where_a_run_begins_and_ends(machine: Declaration) -> None:
    mermaid = diagram.render(machine.name, "mermaid")
    dot = diagram.render(machine.name, "dot")

    assert f"  [*] --> {machine.initial}\n" in mermaid
    assert set(re.findall(r"(\w+) --> \[\*\]", mermaid)) == machine.final
    assert f'\t"[*]" -> {machine.initial}\n' in dot
    assert set(re.findall(r"(\w+) \[.*peripheries=2", dot)) == machine.final


@every_machine
@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_no_state_looks_active_unless_asked_for(
    machine: Declaration, format: str
) -> None:
    plain = diagram.render(machine.name, format)
    active = diagram.render(machine.name, format, machine.initial)

    assert "active" not in plain
    assert plain != active
    assert format == "dot" or f"Class {machine.initial} s_active" in active


def test_dot_is_never_replaced_by_mermaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagrams_graphviz, "pgv", None)

    with pytest.raises(Exception, match="requires graphviz"):
        diagram.render("deletion", "dot")


def test_the_point_of_no_return_stands_out() -> None:
    """Behind it are the states that a deletion cannot be given up in."""
    assert {"pivot", "update_metadata", "stop"} == diagram.forward_only(DELETION)
    assert {"voted", "switched"} == diagram.forward_only(FOLD)
    assert frozenset() == diagram.forward_only(CREATION)
    assert {"recorded"} == diagram.forward_only(REVERSION)

    dot = diagram.render("deletion", "dot")
    bold = re.findall(r"-> \w+ \[label=\" (\w+).*penwidth=3", dot)
    assert ["decide", "proceed"] == sorted(bold)
    assert "Class pivot s_forward\n" in diagram.render("deletion", "mermaid")


@every_machine
def test_every_name_is_snake_case(machine: Declaration) -> None:
    """Mermaid cannot parse a state's name with a hyphen in it."""
    names = {state.name for state in machine.states}
    names |= {edge.trigger for edge in machine.edges}
    names |= {guard for edge in machine.edges for guard in edge.guards}
    names |= {step.name for state in machine.states for step in state.steps}

    assert {name for name in names if not SNAKE_CASE.fullmatch(name)} == set()


def reached(start: str, arrows: set[tuple[str, str]]) -> set[str]:
    found, new = set[str](), {start}
    while new:
        found |= new
        new = {dest for source, dest in arrows if source in new} - found
    return found


@every_machine
def test_every_state_can_be_reached_and_be_left_for_a_final_one(
    machine: Declaration,
) -> None:
    names = {state.name for state in machine.states}
    arrows = {(edge.source, edge.dest) for edge in machine.edges}

    assert {name for arrow in arrows for name in arrow} <= names
    assert names == reached(machine.initial, arrows)
    assert {name for name in names if not reached(name, arrows) & machine.final} == (
        set()
    )
    assert {source for source, _ in arrows} == names - machine.final


@every_machine
def test_an_edge_that_others_shadow_is_not_declared(machine: Declaration) -> None:
    """The first edge of a trigger whose guards hold wins: the last has none."""
    seen: set[tuple[str, str]] = set()
    for edge in machine.edges:
        assert (edge.source, edge.trigger) not in seen, edge
        if not edge.guards:
            seen.add((edge.source, edge.trigger))


def test_every_guard_is_a_method_of_the_model() -> None:
    guards = {guard for edge in DELETION.edges for guard in edge.guards}

    assert guards == {
        name
        for name, _ in inspect.getmembers(DeletionModel, inspect.isfunction)
        if not name.startswith("_")
    }
    others = (*FOLD.edges, *CREATION.edges, *REVERSION.edges)
    assert not any(edge.guards for edge in others)


@every_machine
def test_what_covers_or_undoes_a_step_is_declared(machine: Declaration) -> None:
    steps = {step.name for state in machine.states for step in state.steps}
    triggers = {edge.trigger for edge in machine.edges}
    for state in machine.states:
        for step in state.steps:
            assert step.undone_by is None or step.undone_by in steps
            assert step.covered_by is None or (
                state.step(step.covered_by) or step.covered_by in triggers
            )


def section(text: str, heading: str) -> str:
    found = re.search(rf"^{heading}$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def cells(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            yield re.split(r"(?<!\\) \| ", line[2:-2])


def guards(edge: Edge) -> str:
    return " and ".join(f"`{guard}`" for guard in edge.guards) or "-"


def step_row(step: Step) -> list[str]:
    announced_by = "own row" if announces(step) else "no row"
    return [
        f"`{step.name}`",
        step.does,
        f"`{step.covered_by}`" if step.covered_by else announced_by,
        step.killed,
        step.recovery,
        f"`{step.undone_by}`" if step.undone_by else "-",
    ]


@every_machine
def test_every_state_has_a_section_with_all_that_is_declared(
    machine: Declaration,
) -> None:
    text = page(machine)

    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert [state.name for state in machine.states] == headings
    for state in machine.states:
        plain = section(text, f"### {state.name}").replace("\\", "")
        rows = list(cells(plain))
        for said in (state.does, state.killed, state.recovers):
            assert said in plain
        assert [step_row(step) for step in state.steps] == [
            row for row in rows if len(row) == 6 and row[0] != "step"
        ]
        assert [
            [f"`{edge.trigger}`", f"[{edge.dest}](#{edge.dest})", guards(edge)]
            for edge in machine.edges
            if edge.source == state.name
        ] == [row for row in rows if len(row) == 3 and row[0] != "trigger"]


@every_machine
def test_every_edge_is_in_the_table(machine: Declaration) -> None:
    head, *rows = cells(section(page(machine), "## Edges").replace("\\", ""))

    assert ["from", "trigger", "to", "guards", "when"] == head
    assert rows == [
        [
            f"[{edge.source}](#{edge.source})",
            f"`{edge.trigger}`",
            f"[{edge.dest}](#{edge.dest})",
            guards(edge),
            edge.when,
        ]
        for edge in machine.edges
    ]


def test_the_page_of_folds_says_what_each_state_of_a_deletion_allows() -> None:
    text = section(page(FOLD), "## Allowed in the states of a deletion")
    rows = dict(list(cells(text))[1:])

    assert ALLOWED.keys() == {state.name for state in DELETION.states}
    for state, folds in ALLOWED.items():
        named = rows[f"[{state}](deletion.md#{state})"]
        assert folds == set(re.findall(r"\[(\w+)\]", named))


def test_every_crash_point_is_listed_and_counted() -> None:
    text = (FOLDER / "crash-points.md").read_text(encoding="utf-8")

    total = 0
    for machine in (DELETION, CREATION, REVERSION):
        points = crash_points(machine)
        total += len(points)
        rows = list(cells(section(text, f"## {machine.name}")))[1:]
        assert points == [
            (state.partition("]")[0][1:], name.strip("`"), moment)
            for _, state, name, _, moment in rows
        ]
        assert f" | {len(points)} |\n" in text
    assert f", {total} in all." in text


def test_crash_points_are_those_of_the_machines_that_a_runner_drives() -> None:
    """A fold moves inside of its deletion's transactions; no probe hears of it."""
    text = (FOLDER / "crash-points.md").read_text(encoding="utf-8")

    runners = (DeletionRun, CreationRun, ReversionRun)
    driven = {runner.declaration.name for runner in runners}
    assert driven == set(re.findall(r"^## (.*)$", text, re.MULTILINE))


def test_texts_of_a_declaration_keep_code_and_lose_other_markup() -> None:
    state = replace(DELETION.states[0], does="<d> *e* a_b|c [f] `job-x_y`")
    changed = replace(DELETION, states=(state, *DELETION.states[1:]))

    text = state_docs.pages([changed], {"deletion": ""}, "make diagrams")["deletion.md"]

    assert r"\<d> \*e\* a\_b\|c \[f] `job-x_y`" in text


def test_every_link_of_the_documents_leads_somewhere() -> None:
    headings = {
        path.name: set(re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE))
        for path in FOLDER.glob("*.md")
    }
    for path in FOLDER.glob("*.md"):
        for link in re.findall(r"\]\(([^)]*)\)", path.read_text(encoding="utf-8")):
            name, _, anchor = link.partition("#")
            assert (FOLDER / (name or path.name)).is_file(), link
            anchors = {
                heading.lower().replace(" ", "-")
                for heading in headings.get(name or path.name, ())
            }
            assert not anchor or anchor in anchors, link
