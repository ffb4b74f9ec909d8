"""The block graph is read right: replies recorded from QEMU 7.2, no QEMU needed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.qmp.files import OpenFiles
from backfold.engine.qmp.graph import plain_name, read_chains, read_images
from backfold.engine.qmp.opening import file_node_name, node_name
from backfold.journal.errors import OutcomeUnknown
from backfold.journal.model import FileId
from backfold.states.ports import LiveChain

RECORDED = json.loads((Path(__file__).parent / "graph_replies.json").read_text())


def resolve(name: str) -> tuple[str, FileId | None]:
    """Every name leads to a file; its inode is made of the name."""
    return name, FileId(1, sum(name.encode()))


def chains(scene: dict[str, Any], *, loose: bool = False) -> dict[str, LiveChain]:
    graph = {"nodes": scene["vertices"], "edges": scene["edges"]}
    found = read_chains(scene["nodes"], graph, scene["devices"], resolve, loose=loose)
    return {chain.device: chain for chain in found}


def names(chain: LiveChain) -> list[str]:
    return [image.filename for image in chain.images]


def scene(name: str) -> dict[str, Any]:
    return copy.deepcopy(RECORDED[name])


def test_every_device_with_a_medium_has_its_chain_in_order() -> None:
    found = chains(scene("three devices"))

    assert list(found) == ["d0", "d1", "hda"]
    assert names(found["d0"]) == ["O2", "O1", "B"]
    assert names(found["d1"]) == ["r.raw"]
    assert names(found["hda"]) == ["/images/t.qcow2"]


def test_images_have_their_format_file_node_and_mode() -> None:
    found = chains(scene("three devices"))
    active, middle, _ = found["d0"].images

    assert (active.node, active.file_node) == ("#block242", "#block195")
    assert (active.read_only, middle.read_only) == (False, True)
    assert active.file == resolve("O2")[1]
    assert [found[d].images[0].format for d in found] == ["qcow2", "raw", "qcow2"]


def test_root_is_the_active_image_unless_there_is_a_filter() -> None:
    found = chains(scene("three devices"))

    assert (found["d0"].root, found["d0"].filters) == ("#block242", ())
    assert (found["hda"].root, found["hda"].filters) == ("tt", ("tt",))


def test_active_commit_puts_a_filter_on_top_and_changes_no_image() -> None:
    before, during = chains(scene("three devices")), chains(scene("active commit"))

    assert names(during["d0"]) == names(before["d0"])
    assert during["d0"].root == "#block976"
    assert during["d0"].filters == ("#block976",)
    assert list(during) == list(before)


def test_intermediate_commit_puts_a_filter_inside() -> None:
    before, during = (
        chains(scene("three devices")),
        chains(scene("intermediate commit")),
    )

    assert names(during["d0"]) == names(before["d0"])
    assert during["d0"].root == before["d0"].root
    assert during["d0"].filters == ("#block1072",)


def test_protocol_node_by_itself_is_a_raw_image() -> None:
    found = chains(scene("protocol, debug filter and a lonely file"))
    (image,) = found["/machine/peripheral-anon/device[0]/virtio-backend"].images

    assert (image.node, image.file_node, image.format) == ("p", None, "raw")


def test_filter_between_format_and_file_is_seen_through() -> None:
    found = chains(scene("protocol, debug filter and a lonely file"))
    (image,) = found["hdb"].images

    assert (image.node, image.file_node, image.filename) == ("q", "f", "/images/B")
    assert not found["hdb"].filters


def test_helper_has_no_device_but_chains() -> None:
    recorded = scene("helper with a job")

    assert chains(recorded) == {}
    chain = chains(recorded, loose=True)[""]
    assert names(chain) == ["/images/O2", "/images/O1", "/images/B"]
    assert chain.root == chain.filters[0] == "#block015"


def test_lonely_file_is_no_chain_but_an_open_image() -> None:
    recorded = scene("protocol, debug filter and a lonely file")
    graph = {"nodes": recorded["vertices"], "edges": recorded["edges"]}

    assert chains(recorded, loose=True) == {}
    images = read_images(recorded["nodes"], graph, resolve)
    assert {image.node for image in images} == {"q", "p", "lonely"}


def test_open_images_are_those_of_the_chains() -> None:
    recorded = scene("active commit")
    graph = {"nodes": recorded["vertices"], "edges": recorded["edges"]}
    images = read_images(recorded["nodes"], graph, resolve)

    expected = [i for chain in chains(recorded).values() for i in chain.images]
    assert sorted(images, key=repr) == sorted(expected, key=repr)


def test_format_inside_another_one_has_no_file() -> None:
    recorded = scene("three devices")
    for node in recorded["nodes"]:
        if node["node-name"] == "tt":
            node["drv"] = "raw"
    (image,) = chains(recorded)["hda"].images

    assert (image.node, image.format, image.file) == ("tt", "raw", None)


def test_unknown_filter_is_never_seen_through() -> None:
    recorded = scene("three devices")
    for node in recorded["nodes"]:
        if node["node-name"] == "tt":
            node["drv"] = "filter-of-a-later-qemu"
    (image,) = chains(recorded)["hda"].images

    assert (image.format, image.file) == ("filter-of-a-later-qemu", None)


def test_device_that_the_graph_lacks_is_an_error() -> None:
    recorded = scene("three devices")
    recorded["edges"] = [e for e in recorded["edges"] if e["name"] != "root"]
    with pytest.raises(OutcomeUnknown, match="d0"):
        chains(recorded)


@pytest.mark.parametrize("node", ["#block462", "#block195"])
def test_node_that_vanished_between_the_replies_is_an_error(node: str) -> None:
    recorded = scene("three devices")
    recorded["nodes"] = [n for n in recorded["nodes"] if n["node-name"] != node]
    with pytest.raises(OutcomeUnknown, match=node):
        chains(recorded)


@pytest.mark.parametrize(
    ("reported", "plain"),
    [
        ("/images/a b", "/images/a b"),
        ("rel", "rel"),
        ("", None),
        ('json:{"driver": "file", "filename": "/images/x"}', "/images/x"),
        ('json:{"driver": "qcow2", "file": {"filename": "/images/x"}}', "/images/x"),
        ('json:{"driver": "raw", "file.filename": "/images/x"}', "/images/x"),
        ('json:{"driver": "nbd", "server": {"host": "h"}}', None),
        ('json:{"filename": 7}', None),
        ("json:[1]", None),
        ("json:{", None),
    ],
)
def test_file_name_is_taken_out_of_what_qemu_reports(
    reported: str, plain: str | None
) -> None:
    assert plain_name(reported) == plain


def test_names_without_a_process_are_looked_up_by_path(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    fenced = tmp_path / "image.backfold-x"
    status = image.stat()
    file = FileId(status.st_dev, status.st_ino)
    known = OpenFiles(None, {str(image): str(fenced)})

    assert known.resolve(str(image)) == (str(image), file)
    image.rename(fenced)
    assert known.resolve(str(image)) == (str(image), file)
    assert known.resolve("image") == ("image", None)
    assert OpenFiles(None, {}).resolve(str(image)) == (str(image), None)


def test_alias_is_found_by_the_real_path_too(tmp_path: Path) -> None:
    image, link = tmp_path / "image", tmp_path / "link"
    fenced = tmp_path / "image.backfold-x"
    fenced.touch()
    link.symlink_to(image)
    known = OpenFiles(None, {str(image): str(fenced)})

    assert known.resolve(str(link))[1] is not None
    assert known.resolve(str(tmp_path / "x" / ".." / "image"))[1] is not None


def test_node_names_fit_into_qemu_and_differ_by_file() -> None:
    huge = FileId(2**64 - 1, 2**64 - 1)

    assert len(file_node_name(huge)) <= 31
    assert node_name(FileId(1, 23)) != node_name(FileId(12, 3))
    assert node_name(huge).replace("-", "").isalnum()
