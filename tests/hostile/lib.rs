//! Attacks on a runtime, as a table: malicious stubs and servers.
//!
//! [`for_each_attack`] names all attacks. The tests have one case for each. `cargo xtask torture`
//! runs each next to well-behaved stubs. The target is a [`Stage`]: a runtime with neighbours,
//! built as any host program builds one.
//!
//! [`for_each_environment`] names the hostile environments, each a machine or network that fails.

#![expect(clippy::exhaustive_enums, clippy::exhaustive_structs, reason = "only the tests of this repository use the crate")]

mod attack;
pub mod attacks;
mod components;
mod environment;
mod load;
mod machine;
mod names;
mod servers;
mod stage;

pub use attack::{Attack, Containment};
pub use environment::{Child, Environment, Outcome, Scale, Verdict, all_environments, environments};
pub use load::{Answer, Load, Sum};
pub use machine::{Lateness, Resident, descriptors, percentile, resident, threads};
pub use servers::{Behaviour, Served, Server};
pub use stage::{Attacker, Contained, Escaped, Neighbours, Stage, StageConfig, unsafe_character};

/// Calls a macro with the names of all attacks, which are functions of [`attacks`].
#[macro_export]
macro_rules! for_each_attack {
    ($each:ident) => {
        $each! {
            abandons_lookups,
            asks_for_blank_scopes,
            asks_for_credentials,
            asks_for_random_bytes,
            ask_for_what_is_not_there,
            catalogue_floods_accepted_versions,
            churns_connections,
            component_has_endless_import_names,
            component_has_long_import_names,
            fills_log,
            floods_bus,
            floods_http,
            floods_log,
            floods_statuses,
            floods_timers,
            floods_websocket,
            follows_changing_names,
            forges_senders,
            hoards_handles,
            lies_about_allocation,
            opens_connections,
            opens_connections_to_many_names,
            panics_at_length,
            posts_beyond_memory,
            posts_huge_list,
            posts_overlapping,
            reaches_for_domains,
            recurses,
            refuses_with_control_characters,
            returns_endless_text,
            returns_invalid_utf8,
            says_control_characters,
            scans_local_ports,
            sleeps,
            spins,
            spins_between_calls,
            spins_in_core_start,
            spins_in_realloc,
            spins_in_start,
            stays_below_limits,
            takes_memory,
            takes_memory_at_once,
            takes_tables,
            traps_after_posting,
            traps_in_core_start,
            traps_in_handle,
            traps_in_start,
            server_answers_with_endless_body,
            server_answers_with_gzip_bomb,
            server_dribbles_descriptor,
            server_dribbles_head,
            server_floods_pings,
            server_has_long_chain,
            server_has_winding_chain,
            server_has_wrong_certificate,
            server_nests_a_million_arrays,
            server_redirects_in_circle,
            server_redirects_to_metadata,
            server_sends_endless_body,
            server_sends_endless_fragments,
            server_sends_endless_frame,
            server_sends_endless_head,
            server_sends_endless_informational,
            server_says_nothing,
            takes_minutes_to_compile,
        }
    };
}

macro_rules! table {
    ($($name:ident,)*) => {
        /// All attacks, in the order in which they are run.
        #[must_use]
        pub fn all() -> Vec<Attack> {
            vec![$(attacks::$name()),*]
        }
    };
}
for_each_attack!(table);

/// A selection of attacks and environments, by parts of their names.
#[derive(Debug, Clone, Default)]
pub struct Selection(Vec<String>);

impl Selection {
    /// Parses a list of name parts, separated by commas.
    ///
    /// # Errors
    /// If no name contains a part. The error lists all names.
    pub fn parse(text: &str) -> Result<Self, String> {
        let texts: Vec<_> = text.split(',').map(|text| text.trim().to_owned()).collect();
        let names = || all().into_iter().map(|attack| attack.name).chain(all_environments().into_iter().map(|one| one.name));
        match texts.iter().find(|text| text.is_empty() || !names().any(|name| name.contains(text.as_str()))) {
            Some(unknown) => Err(format!("`{unknown}` is in no name; there are {}", names().collect::<Vec<_>>().join(", "))),
            None => Ok(Self(texts)),
        }
    }

    /// Returns `true` if the selection includes this name. An empty selection includes all.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|text| name.contains(text.as_str()))
    }

    /// Returns the selected attacks.
    #[must_use]
    pub fn attacks(&self) -> Vec<Attack> {
        all().into_iter().filter(|attack| self.has(attack.name)).collect()
    }

    /// Returns the selected environments.
    #[must_use]
    pub fn environments(&self) -> Vec<Environment> {
        all_environments().into_iter().filter(|environment| self.has(environment.name)).collect()
    }
}
