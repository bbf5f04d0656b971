use std::sync::Arc;

use crate::{
    contract::{configuration, types::Json},
    state::State,
};

impl configuration::Host for State {
    fn get(&mut self) -> Json {
        Arc::clone(&self.config.configuration)
    }
}
