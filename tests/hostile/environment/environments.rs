//! The table of environments: a failure of `failure.rs` in a process of `process.rs`.
#![expect(missing_docs, reason = "the name states the failure")]

use super::{Environment, Names, failure, process::Setting};

pub fn few_descriptors() -> Environment {
    Environment::new("few_descriptors", Setting::FewDescriptors, failure::few_descriptors)
}

pub fn full_disk() -> Environment {
    Environment::new("full_disk", Setting::SmallDisk, failure::full_disk)
}

pub fn records_are_folders() -> Environment {
    Environment::new("records_are_folders", Setting::Plain, failure::records_are_folders)
}

pub fn records_are_loops() -> Environment {
    Environment::new("records_are_loops", Setting::Plain, failure::records_are_loops)
}

pub fn folders_are_files() -> Environment {
    Environment::new("folders_are_files", Setting::Plain, failure::folders_are_files)
}

pub fn folders_are_gone() -> Environment {
    let environment = Environment::new("folders_are_gone", Setting::Plain, failure::folders_are_gone);
    // A runtime that starts now cannot know the accepted releases. The running one does, and
    // records the next release.
    Environment { records_remain: false, ..environment }
}

pub fn silent_dns() -> Environment {
    let environment = Environment::new("silent_dns", Setting::OwnNetwork, failure::silent_names);
    Environment { names: Names::System, ..environment }
}

pub fn silent_resolver() -> Environment {
    let environment = Environment::new("silent_resolver", Setting::Plain, failure::silent_names);
    Environment { names: Names::Own, ..environment }
}

pub fn clock_set_back() -> Environment {
    Environment::new("clock_set_back", Setting::OwnClock, failure::clock_set_back)
}
