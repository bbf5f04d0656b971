"""A protocol stub that answers every message with its own body."""

from dataclasses import replace
from typing import List

from wit_world import exports
from wit_world.imports import bus, presence
from wit_world.imports.types import (
    Event, Event_Connect, Event_Disconnect, Event_Message, Message, MessageType_Response,
)


class Stub(exports.Stub):
    def start(self, url: str) -> None:
        """Nothing to prepare. To refuse the deployment: `raise componentize_py_types.Err("why, and what to do")`."""

    def handle(self, events: List[Event]) -> None:
        replies = []
        for event in events:
            match event:
                case Event_Connect():
                    presence.publish(presence.Status.IN_PROGRESS, None)
                    presence.publish(presence.Status.LIVE, None)
                case Event_Disconnect():
                    presence.publish(presence.Status.DISCONNECTED, None)
                case Event_Message(message) if not isinstance(message.type, MessageType_Response):
                    replies.append(reply_to(message))
        if replies:
            bus.post(replies)


def reply_to(message: Message) -> Message:
    return replace(message, type=MessageType_Response(), from_=message.to, to=message.from_, via=[], headers=[])
