"""A protocol stub without a protocol.

It answers every request with its body, and posts every other message back to its sender.
"""

from dataclasses import replace
from typing import List

from wit_world import exports
from wit_world.imports import bus, presence
from wit_world.imports.types import (
    Event, Event_Connect, Event_Disconnect, Event_Message, Message, MessageType_Create, MessageType_Delete,
    MessageType_Execute, MessageType_Read, MessageType_Response, MessageType_Subscribe, MessageType_Unsubscribe,
)

REQUESTS = (
    MessageType_Create, MessageType_Read, MessageType_Delete, MessageType_Subscribe, MessageType_Unsubscribe, MessageType_Execute,
)


class Stub(exports.Stub):
    def start(self, url: str) -> None:
        """The stub needs no preparation.

        To refuse the deployment: `raise componentize_py_types.Err("why, and what to do")`.
        """

    def handle(self, events: List[Event]) -> None:
        echoes = []
        for event in events:
            match event:
                case Event_Connect():
                    presence.publish(presence.Status.IN_PROGRESS, None)
                    presence.publish(presence.Status.LIVE, None)
                case Event_Disconnect():
                    presence.publish(presence.Status.DISCONNECTED, None)
                case Event_Message(message):
                    echoes.append(echo(message))
        if echoes:
            bus.post(echoes)


def expects_response(message: Message) -> bool:
    if isinstance(message.type, MessageType_Response):
        return False
    return isinstance(message.type, REQUESTS) or ("expects-response", "true") in message.headers


def echo(message: Message) -> Message:
    back = replace(message, from_=message.to, to=message.from_, via=[])
    return replace(back, type=MessageType_Response(), headers=[]) if expects_response(message) else back
