use crate::{
    contract::{session, types::Error},
    state::State,
};

impl session::Host for State {
    fn load(&mut self) -> Option<Vec<u8>> {
        self.services.session.load().map(|bytes| bytes.to_vec())
    }

    fn save(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        self.services.session.save(&bytes).map_err(|error| Error::Limit(error.to_string()))
    }
}
