//! The attacks. The programs in `tests/programs/hostile` and the servers in `servers.rs` document
//! them.
#![expect(missing_docs, reason = "the name states the attack, and the line below it the containment")]

use crate::{
    Attack,
    Containment::{Ends, Held, NotDeployed, Refused, Spares, Traps, Waits},
    components, names, servers,
};

/// Includes a core module or a component of `tests/programs/hostile/wat`.
macro_rules! wat {
    ($name:literal) => {
        include_str!(concat!("../programs/hostile/wat/", $name, ".wat"))
    };
}

/// The name service sees no more lookups than one stub's share. The last attempt reaches the
/// server, whose certificate is wrong.
pub fn abandons_lookups() -> Attack {
    Attack::program("abandons_lookups", Refused("certificate")).with(servers::wrong_certificate).below(names::SILENT, "wss")
}

pub fn asks_for_blank_scopes() -> Attack {
    Attack::program("asks_for_blank_scopes", Refused("all were denied, and the token is for chat")).below(names::GRANTED, "")
}

pub fn asks_for_credentials() -> Attack {
    Attack::program("asks_for_credentials", Held("identity_requests"))
}

pub fn asks_for_random_bytes() -> Attack {
    Attack::program("asks_for_random_bytes", Ends("random_bytes"))
}

pub fn ask_for_what_is_not_there() -> Attack {
    Attack::text("ask_for_what_is_not_there", wat!("wants_more"), NotDeployed("imports that no stub may have: evil:host/shell"))
}

pub fn catalogue_floods_accepted_versions() -> Attack {
    Attack::flood("catalogue_floods_accepted_versions", NotDeployed("the newer 2.0 was live here before"))
}

pub fn churns_connections() -> Attack {
    Attack::program("churns_connections", Held("connect_attempts_per_second")).with(servers::says_nothing)
}

pub fn component_has_endless_import_names() -> Attack {
    let refused = NotDeployed("its imports and exports take");
    Attack::bytes("component_has_endless_import_names", components::endless_import_names, refused)
}

pub fn component_has_long_import_names() -> Attack {
    Attack::bytes("component_has_long_import_names", components::long_import_names, NotDeployed(" and 580 more"))
}

pub fn fills_log() -> Attack {
    Attack::program("fills_log", Held("log_bytes_per_day"))
}

pub fn floods_bus() -> Attack {
    Attack::program("floods_bus", Held("posts_per_second"))
}

pub fn floods_http() -> Attack {
    Attack::program("floods_http", Held("connections")).with(servers::says_nothing)
}

pub fn floods_log() -> Attack {
    Attack::program("floods_log", Held("log_lines_per_second")).or_ends("cpu_per_call")
}

pub fn floods_statuses() -> Attack {
    Attack::program("floods_statuses", Held("publications_per_second"))
}

pub fn floods_timers() -> Attack {
    Attack::program("floods_timers", Held("timers"))
}

pub fn floods_websocket() -> Attack {
    Attack::program("floods_websocket", Held("bytes_out_per_second")).with(servers::swallows_frames)
}

pub fn follows_changing_names() -> Attack {
    Attack::program("follows_changing_names", Refused("8 were refused, 8 came to its own server"))
        .with(servers::wrong_certificate)
        .below(names::CHANGING, "wss")
}

pub fn forges_senders() -> Attack {
    Attack::program("forges_senders", Refused("were refused"))
}

pub fn hoards_handles() -> Attack {
    Attack::program("hoards_handles", Ends("resource_handles"))
}

pub fn lies_about_allocation() -> Attack {
    Attack::text("lies_about_allocation", wat!("lies_about_allocation"), NotDeployed("beyond end of memory"))
}

pub fn opens_connections() -> Attack {
    Attack::program("opens_connections", Held("connections")).with(servers::says_nothing)
}

pub fn opens_connections_to_many_names() -> Attack {
    Attack::program("asks_many_names", Spares("1000 names were asked"))
        .named("opens_connections_to_many_names")
        .with(servers::keeps_connections)
        .below("localhost", "http")
}

pub fn panics_at_length() -> Attack {
    Attack::program("panics_at_length", Traps("words, words, words")).or_ends("cpu_per_call")
}

pub fn posts_beyond_memory() -> Attack {
    Attack::text("posts_beyond_memory", wat!("posts_beyond_memory"), NotDeployed("out of bounds of memory"))
}

pub fn posts_huge_list() -> Attack {
    Attack::text("posts_huge_list", wat!("posts_huge_list"), NotDeployed("more than 4194304 bytes"))
}

pub fn posts_overlapping() -> Attack {
    Attack::text("posts_overlapping", wat!("posts_overlapping"), NotDeployed("more than 4194304 bytes"))
}

pub fn reaches_for_domains() -> Attack {
    Attack::program("reaches_for_domains", Refused("were refused"))
}

pub fn recurses() -> Attack {
    Attack::text("recurses", wat!("recurses"), NotDeployed("bytes of stack"))
}

pub fn refuses_with_control_characters() -> Attack {
    Attack::program("refuses_with_control_characters", NotDeployed(r"there is no program `\u{202e}evil\nERROR\u{1b}[31m`"))
        .configured("program", "\u{202e}evil\nERROR\u{1b}[31m")
}

pub fn returns_endless_text() -> Attack {
    Attack::text("returns_endless_text", wat!("returns_endless_text"), NotDeployed("out of bounds"))
}

pub fn returns_invalid_utf8() -> Attack {
    Attack::text("returns_invalid_utf8", wat!("returns_invalid_utf8"), NotDeployed("utf-8"))
}

pub fn says_control_characters() -> Attack {
    Attack::program("says_control_characters", Traps(r"no such room\r\nERROR all is \u{202e}tsol"))
}

pub fn scans_local_ports() -> Attack {
    Attack::program("scans_local_ports", Refused("all were refused")).with(servers::wrong_certificate).below(names::HERE, "wss")
}

pub fn sleeps() -> Attack {
    Attack::program("sleeps", Ends("time_per_call"))
}

pub fn spins() -> Attack {
    Attack::program("spins", Ends("cpu_per_call"))
}

pub fn spins_between_calls() -> Attack {
    Attack::program("spins_between_calls", Ends("cpu_per_call"))
}

pub fn spins_in_core_start() -> Attack {
    Attack::text("spins_in_core_start", wat!("spins_in_core_start"), NotDeployed("a call computed for more than"))
}

pub fn spins_in_realloc() -> Attack {
    Attack::text("spins_in_realloc", wat!("spins_in_realloc"), NotDeployed("a call computed for more than"))
}

pub fn spins_in_start() -> Attack {
    Attack::program("spins_in_start", NotDeployed("a call computed for more than"))
}

pub fn stays_below_limits() -> Attack {
    Attack::program("stays_below_limits", Refused("below all limits"))
}

pub fn takes_memory() -> Attack {
    Attack::program("takes_memory", Ends("memory_bytes"))
}

pub fn takes_memory_at_once() -> Attack {
    Attack::text("takes_memory_at_once", wat!("takes_memory_at_once"), NotDeployed("a memory was to grow to"))
}

pub fn takes_tables() -> Attack {
    Attack::text("takes_tables", wat!("takes_tables"), NotDeployed("a table was to grow to"))
}

pub fn traps_after_posting() -> Attack {
    Attack::program("traps_after_posting", Traps("after posting"))
}

pub fn traps_in_core_start() -> Attack {
    Attack::text("traps_in_core_start", wat!("traps_in_core_start"), NotDeployed("unreachable"))
}

pub fn traps_in_handle() -> Attack {
    Attack::program("traps_in_handle", Traps("in handle"))
}

pub fn traps_in_start() -> Attack {
    Attack::program("traps_in_start", NotDeployed("in start"))
}

pub fn server_answers_with_endless_body() -> Attack {
    Attack::catalogue("server_answers_with_endless_body", servers::endless_body, NotDeployed("descriptor-bytes"))
}

pub fn server_answers_with_gzip_bomb() -> Attack {
    Attack::catalogue("server_answers_with_gzip_bomb", servers::gzip_bomb, NotDeployed("gzip"))
}

pub fn server_dribbles_descriptor() -> Attack {
    Attack::catalogue("server_dribbles_descriptor", servers::dribbles_body, NotDeployed("in all"))
}

pub fn server_dribbles_head() -> Attack {
    Attack::back_end("server_dribbles_head", "http", servers::dribbles_head, Waits)
}

pub fn server_floods_pings() -> Attack {
    Attack::back_end("server_floods_pings", "ws", servers::floods_pings, Held("bytes_in_per_second"))
}

/// A hundred intermediates that all claim a root of the web as their issuer.
pub fn server_has_long_chain() -> Attack {
    Attack::back_end(
        "server_has_long_chain",
        "wss",
        servers::long_chain,
        Refused("101 intermediate certificates, and at most 10"),
    )
}

/// Ten intermediates, each of which is a possible issuer of each other: thousands of paths.
pub fn server_has_winding_chain() -> Attack {
    Attack::back_end("server_has_winding_chain", "wss", servers::winding_chain, Refused("UnknownIssuer"))
}

pub fn server_has_wrong_certificate() -> Attack {
    Attack::back_end("server_has_wrong_certificate", "wss", servers::wrong_certificate, Refused("certificate"))
}

pub fn server_nests_a_million_arrays() -> Attack {
    Attack::catalogue("server_nests_a_million_arrays", servers::nested_arrays, NotDeployed("recursion limit"))
}

pub fn server_redirects_in_circle() -> Attack {
    Attack::catalogue("server_redirects_in_circle", servers::redirects_in_circle, NotDeployed("redirect"))
}

pub fn server_redirects_to_metadata() -> Attack {
    Attack::catalogue("server_redirects_to_metadata", servers::redirects_to_metadata, NotDeployed("169.254.169.254"))
}

pub fn server_sends_endless_body() -> Attack {
    Attack::back_end("server_sends_endless_body", "http", servers::endless_body, Held("bytes_in_per_second"))
}

pub fn server_sends_endless_fragments() -> Attack {
    Attack::back_end("server_sends_endless_fragments", "ws", servers::endless_fragments, Refused("over the limit of 1048576"))
}

pub fn server_sends_endless_head() -> Attack {
    Attack::back_end("server_sends_endless_head", "http", servers::endless_head, Held("bytes_in_per_second"))
        .times(14)
        .or_ends("connect_attempts_per_second")
}

pub fn server_sends_endless_informational() -> Attack {
    Attack::back_end(
        "server_sends_endless_informational",
        "http",
        servers::endless_informational,
        Refused("more informational responses (1xx) than the limit of 8"),
    )
    .times(14)
    .or_ends("connect_attempts_per_second")
}

pub fn server_sends_endless_frame() -> Attack {
    Attack::back_end("server_sends_endless_frame", "ws", servers::endless_frame, Refused("over the limit of 1048576"))
}

pub fn server_says_nothing() -> Attack {
    Attack::back_end("server_says_nothing", "ws", servers::says_nothing, Waits)
}

pub fn takes_minutes_to_compile() -> Attack {
    Attack::bytes("takes_minutes_to_compile", components::slow, NotDeployed("was not compiled within")).lingering()
}
