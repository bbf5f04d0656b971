use crate::{
    contract::{session, types::Error},
    recorder::Entry,
    state::StubState,
};

impl session::Host for StubState {
    fn load(&mut self) -> Option<Vec<u8>> {
        let saved = self.services.session.load().map(|bytes| bytes.to_vec());
        self.record(&Entry::call("session.load").bytes(saved.as_ref().map_or(0, Vec::len)));
        saved
    }

    fn save(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        let saved = self.services.session.save(&bytes).map_err(|error| Error::Limit(error.to_string()));
        self.record(&Entry::call("session.save").bytes(bytes.len()).result(&saved));
        saved
    }
}
