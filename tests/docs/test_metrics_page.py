"""docs/metrics.md and the alerting rules know every metric, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from backfold import Engine
from backfold.engine.liveness import Work
from backfold.metrics import JournalCollector

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
RULES = ROOT / "examples" / "prometheus" / "backfold-alerts.yml"
#: What Prometheus appends to a family's name.
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}


def series(tmp_path: Path) -> dict[str, set[str]]:
    """Every name that a series may have, by family as the page calls it."""
    engine = Engine(tmp_path / "journal.db")
    collector = JournalCollector(engine, per_domain=True)
    return {
        family.name + "_total" * (family.type == "counter"): {
            family.name + suffix for suffix in SUFFIXES[family.type]
        }
        for family in collector.describe()
    }


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in found["groups"] for rule in group["rules"]]


def test_the_page_has_every_metric_and_no_other(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = re.findall(r"^\| `(backfold_\w+)` \|", text, re.MULTILINE)
    known = series(tmp_path)

    assert sorted(table) == sorted(known)
    named = set(re.findall(r"`(backfold_\w+)`", text))
    assert named <= {*known, *(name for names in known.values() for name in names)}


def test_the_page_names_the_labels_of_each_metric(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(backfold_\w+)` \| (.*?) ?\|", text, re.MULTILINE))
    collector = JournalCollector(tmp_path / "journal.db", per_domain=True)

    for family in collector.describe():
        labels = vars(family)["_labelnames"]
        name = family.name + "_total" * (family.type == "counter")
        assert re.findall(r"`(\w+)`", rows[name]) == list(labels), name


def test_rules_use_metrics_that_there_are(tmp_path: Path) -> None:
    names = {name for names in series(tmp_path).values() for name in names}
    used = set()
    for rule in rules():
        expression = rule["expr"]
        found = re.findall(r"\b(?:backfold|node)_\w+", expression)
        assert found, expression
        used |= {name for name in found if name.startswith("backfold")}
        for work in re.findall(r'work="(\w+)"', expression):
            assert work in list(Work)

    assert used <= names
    assert {"backfold_journal_usable", "backfold_deletions_total"} <= used


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]

    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description"}
        for command in re.findall(r"`(backfold .*?)`", str(rule["annotations"])):
            assert command.split()[1] in ("recover", "status", "metrics"), command
