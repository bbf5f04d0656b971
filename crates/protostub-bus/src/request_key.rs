use protostub_types::{Address, Message, MessageId};

/// The fields by which a response identifies its request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RequestKey {
    requester: Address,
    responder: Address,
    id: MessageId,
}

impl RequestKey {
    pub(crate) fn of_request(request: &Message) -> Self {
        Self { requester: request.from.clone(), responder: request.to.clone(), id: request.id.canonical() }
    }

    pub(crate) fn of_response(response: &Message) -> Self {
        Self { requester: response.to.clone(), responder: response.from.clone(), id: response.id.canonical() }
    }

    pub(crate) fn requester(&self) -> &Address {
        &self.requester
    }

    pub(crate) fn responder(&self) -> &Address {
        &self.responder
    }
}
