"""Questions that people have about a journal, as SQL that any client can run.

They are the canned queries of Datasette, and examples for everything else. Each only
reads. A parameter is written ``:name``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Question:
    """A query with the question that it answers."""

    name: str
    title: str
    says: str
    sql: str


_OPEN: Final = " union all\n  ".join(
    f"select machine, id, domain, snapshot, state, generation, started from {table}"
    f" where finished is null"
    for table in ("deletions", "creations", "reversions")
)
_FAILED: Final = " union all\n  ".join(
    f"select machine, id, domain, snapshot, state, reason, started, finished"
    f" from {table} where state in ('rolled_back', 'undone')"
    for table in ("deletions", "creations", "reversions")
)

QUESTIONS: Final = (
    Question(
        "open_runs",
        "Which runs are open?",
        "The oldest first, with the last row that each has written. Whether somebody"
        " is at work on one, `backfold metrics` tells.",
        f"""\
select o.*, t.at as last_row, t.who as last_by, t.source || '/' || t.trigger as last_was
from (
  {_OPEN}
) o
join transitions t on t.id = (select max(id) from transitions where run = o.id)
order by o.started""",
    ),
    Question(
        "story",
        "What happened in a run?",
        "Everything that was recorded of it, in order. `run` is its id, or the"
        " beginning of it. `backfold log` tells the same in sentences.",
        """\
select id, at,
  round((julianday(at) - julianday(min(at) over ())) * 86400, 3) as since_seconds,
  machine, json_extract(detail, '$.disk') as disk, source, trigger, dest, kind, who,
  detail
from transitions
where run glob :run || '*'
order by id""",
    ),
    Question(
        "slowest_states",
        "Where does the time go?",
        "How long runs were in each state that they left, in seconds; the time that a"
        " run was interrupted counts too.",
        """\
with edges as (
  select machine, run, source as state, at,
    lag(at) over (partition by machine, run order by id) as since
  from transitions
  where machine <> 'fold' and (kind = 'edge' or trigger = 'claim' and generation = 1)
),
times as (
  select machine, run, state, (julianday(at) - julianday(since)) * 86400 as seconds
  from edges
  where since is not null
)
select machine, state, count(*) as times, round(sum(seconds), 3) as total_seconds,
  round(avg(seconds), 3) as mean_seconds, round(max(seconds), 3) as longest_seconds,
  run as longest_run
from times
group by machine, state
order by total_seconds desc""",
    ),
    Question(
        "downtime_per_domain",
        "How long did guests stand still?",
        "All holds of all deletions of a domain, in milliseconds, and the deletion"
        " with the longest.",
        """\
select domain, count(*) as deletions, round(sum(downtime_ms), 1) as total_ms,
  round(max(downtime_ms), 1) as longest_ms, id as longest_deletion
from deletions
where downtime_ms is not null
group by domain
order by longest_ms desc""",
    ),
    Question(
        "rollbacks",
        "What failed, and why?",
        "Runs that were given up, the newest first. The domain was left as before.",
        f"""\
select * from (
  {_FAILED}
)
order by finished desc""",
    ),
    Question(
        "refusals",
        "What was refused, and why?",
        "Deletions that did not begin, a line for each reason, the newest first.",
        """\
select d.id, d.domain, d.snapshot, json_extract(r.value, '$.code') as code,
  json_extract(r.value, '$.disk') as disk,
  json_extract(r.value, '$.message') as message, d.finished
from deletions d
join transitions t on t.run = d.id and t.machine = 'deletion' and t.dest = 'refused'
left join json_each(t.detail, '$.reasons') r
order by d.finished desc""",
    ),
    Question(
        "invalid_snapshots",
        "Which snapshots cannot be reverted to?",
        "Something was written into their images. They can be deleted.",
        """\
select domain, name, reason, created
from snapshots
where status = 'invalid'
order by domain, name""",
    ),
    Question(
        "takeovers",
        "Who took over what?",
        "A run that was interrupted and that another engine went on with.",
        """\
select c.at, c.machine, c.run, c.source as state, c.who as taken_over_by,
  before.who as from_whom, before.at as silent_since
from transitions c
join transitions before on before.id =
  (select max(id) from transitions where run = c.run and id < c.id)
where c.trigger = 'claim' and c.generation > 1
order by c.id desc""",
    ),
    Question(
        "superseded_images",
        "Where is the data of an image that is gone?",
        "What completed deletions folded away, and the image that holds it since."
        " That one may have been folded away later: look for it here, too.",
        """\
with folds as (
  select d.id, d.domain, d.finished, f.value as fold,
    json_extract(f.value, '$.strategy') = 'stream' as up
  from deletions d, json_each(d.plan, '$.folds') f
  where d.state = 'completed'
)
select finished, domain, json_extract(fold, '$.target') as disk,
  json_extract(layer.value, '$.path') as superseded,
  json_extract(fold, '$.chain[' || json_extract(fold, iif(up, '$.first', '$.last'))
    || '].path') as held_by,
  json_extract(fold, '$.strategy') as strategy, folds.id as deletion
from folds, json_each(fold, '$.chain') layer
where layer.key between json_extract(fold, '$.first') + up
  and json_extract(fold, '$.last') - 1 + up
union all
select d.finished, d.domain, json_extract(f.value, '$.target'), i.value,
  json_extract(f.value, iif(json_extract(f.value, '$.strategy') = 'stream', '$.top',
    '$.base')),
  json_extract(f.value, '$.strategy'), d.id
from deletions d, json_each(d.passes) p, json_each(p.value, '$.disks') f,
  json_each(f.value, '$.superseded') i
where d.state = 'completed'
order by 1 desc, 2, 3""",
    ),
    Question(
        "alarms",
        "What went wrong on the way?",
        "Unexpected things that runs met and went on from, the newest first.",
        """\
select at, machine, run, source as state, trigger,
  coalesce(json_extract(detail, '$.what'), detail) as what, who
from transitions
where trigger in ('alarm', 'flush_failed', 'request_cancel')
order by id desc""",
    ),
)
