use protostub_types::{Address, Message, MessageId, MessageType};

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

    /// Returns the final response to the request, with its id as the requester wrote it, that the
    /// host gives in the responder's place.
    pub(crate) fn error_response(&self, id: &MessageId, code: u16, reason: &str) -> Message {
        let request = Message {
            id: id.clone(),
            kind: MessageType::Read,
            from: self.requester.clone(),
            to: self.responder.clone(),
            via: Vec::new(),
            headers: Vec::new(),
            body: None,
        };
        request.error_response(code, reason)
    }

    pub(crate) fn responder(&self) -> &Address {
        &self.responder
    }
}
