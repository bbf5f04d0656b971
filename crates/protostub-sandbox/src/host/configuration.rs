use std::sync::Arc;

use crate::{
    contract::{configuration, types::Json},
    recorder::Entry,
    state::StubState,
};

impl configuration::Host for StubState {
    fn get(&mut self) -> Json {
        self.record(&Entry::call("configuration.get"));
        Arc::clone(&self.config.configuration)
    }
}
