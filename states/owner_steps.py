"""The steps of all machines that deal with the owner of a domain's definition."""

from __future__ import annotations

from typing import Final

from .machine import Recovery, Step

ASK_OWNER: Final = Step(
    "ask_owner",
    "calls the hook of the domain, if it has one: could the definition be given the"
    " new images, which it names; nothing is to be written yet",
    "a hook that was asked; the definition is as before",
    Recovery.REPEAT,
)
TELL_OWNER: Final = Step(
    "tell_owner",
    "calls the hook of the domain, if it has one, with the images of all its disks,"
    " again until it has succeeded",
    "a definition that names the former images or the present ones",
    Recovery.REPEAT,
)
