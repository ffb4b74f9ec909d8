"""start_paused: a helper QEMU for a domain that is off."""

from __future__ import annotations

from dataclasses import asdict

from sqlite_utils import Database

from ..journal import runs
from ..journal.errors import CommandFailed, OutcomeUnknown
from ..journal.model import FoldPlan
from .context import Context, Move, Position, Replan, Unit, locate
from .ports import HelperRecord, Session


async def start_paused(ctx: Context) -> Move:
    """Attach to the helper, or start one, and open the images in it.

    Nothing is written into an image here. A kill leaves a helper that the journal
    can find: by its noted pid, or by the socket that the intent names.
    """
    try:
        session = await helper_session(ctx, ctx.plan.folds)
    except CommandFailed as error:
        await end_helper(ctx)
        raise Replan(f"the helper could not open the images: {error.what}") from error
    if not session.is_helper:
        await end_helper(ctx)
        raise Replan("the domain was started meanwhile")
    return Move("proceed")


async def helper_session(ctx: Context, folds: tuple[FoldPlan, ...]) -> Session:
    """A helper that has the images of these folds open, old or new.

    Raises `CommandFailed` when an image cannot be opened, as when somebody else has
    its lock. Its images are opened only after its identity is durable.
    """
    session = await ctx.connect()
    if session is None:
        await _start(ctx)
        session = await ctx.connect()
        if session is None:
            raise OutcomeUnknown("The helper has gone as soon as it was started.")
    if not session.is_helper:
        return session
    if all(found for found, _ in [locate(await session.chains({}), f) for f in folds]):
        return session
    helper = session

    async def open_images() -> None:
        for fold in folds:
            head = fold.relinked or fold.top
            await helper.open_chain(
                fold.chain[fold.chain.index(head) :],
                frozenset({head.path, fold.survivor.path}),
            )

    await ctx.effects.perform(
        "open_images",
        open_images,
        told=lambda _: {"images": [fold.top.path for fold in folds]},
    )
    chains = await session.chains({})
    for fold in folds:
        if locate(chains, fold)[1] is not Position.ON_TOP:
            raise CommandFailed(f"The chain of {fold.target} is not as it was planned.")
    return session


async def end_helper(ctx: Context) -> None:
    """End our helper, if there is one; never a QEMU that is not ours."""
    helper = ctx.row.helper
    if helper is None:
        return
    session, ctx.session = ctx.session, None
    if session is not None and not session.is_helper:
        ctx.session = session
    elif session is not None:
        await session.close()

    async def end() -> None:
        await ctx.hypervisor.end_helper(helper["socket"], ctx.helper_record())

    def noted(_: None) -> Unit:
        return lambda db: runs.update_deletion(db, ctx.key, helper=None)

    await ctx.effects.perform(
        "end_helper", end, noting=noted, told=lambda _: {"pid": helper.get("pid")}
    )
    await ctx.refresh()


async def _start(ctx: Context) -> None:
    if ctx.row.helper is not None:
        await end_helper(ctx)
    socket = ctx.hypervisor.helper_socket(ctx.id)

    async def start() -> HelperRecord:
        return await ctx.hypervisor.start_helper(socket)

    def announced(db: Database) -> None:
        runs.update_deletion(db, ctx.key, helper={"socket": socket, "pid": None})

    def noted(record: HelperRecord) -> Unit:
        return lambda db: runs.update_deletion(db, ctx.key, helper=asdict(record))

    await ctx.effects.perform(
        "start_helper",
        start,
        intent={"socket": socket},
        announcing=announced,
        noting=noted,
        told=lambda record: {"pid": record.pid},
    )
    await ctx.refresh()
