//! The rules: each phrase and its suggestion, the limits, and the exceptions.

/// Openings that hide the subject of a sentence, as regular expressions, each with a suggestion.
pub(crate) const OPENINGS: [(&str, &str); 16] = [
    ("What", "start with the noun that the sentence describes"),
    ("Who", "name the actor: the stub, the caller, the operator, the guest, the host"),
    ("Whom", "name the actor, and start with it"),
    ("Whose", "name the owner, and start with it"),
    ("Whoever", "name the actor: the stub, the caller, the operator, the guest, the host"),
    ("Whatever", "list the cases, or write `any` and a noun"),
    ("Whether", "use a verb: `Returns true if …`, or a noun phrase: `True if …`"),
    ("How many", "use a noun phrase: `Number of …`, `Maximum number of …`"),
    ("How much", "use a noun phrase: `Amount of …`, `Size of …`"),
    ("How often", "use a noun phrase: `Number of times …`, `Interval between …`"),
    ("Nobody", "name the actor, and say that it does not: `No stub …`"),
    ("Nothing", "name the thing, and say that it does not happen: `No message …`"),
    ("None", "say when the value is absent: Returns `None` if …"),
    ("That which", "start with the noun"),
    ("Those that", "start with the noun"),
    ("One that", "start with the noun"),
];

/// Openings of error texts without a subject: a log shows the text on its own.
pub(crate) const SUBJECTS: [(&str, &str); 3] = [
    ("it", "name what failed: the stub, the component, the signature, the file"),
    ("its", "name the owner: the stub's, the domain's"),
    ("they", "name what failed"),
];

/// Words and phrases that are not the field's, as regular expressions, each with a suggestion.
pub(crate) const WORDS: [(&str, &str); 21] = [
    (r"\bwhoever\b", "name the actor"),
    (r"\bwhatever\b", "list the cases, or write `any` and a noun"),
    (r"\banew\b", "write `again`, or the verb: `restarts`, `reloads`, `retries`"),
    (r"\bgood-?bye\b", "write `graceful shutdown` or `close`"),
    (r"\bbeside\b", "write `next to`, `besides` or `in addition to`"),
    (r"\bstands? in\b", "write `replaces`, `is in` or `is documented in`"),
    (r"\bis told\b", "write `receives`, `is notified` or `is called with`"),
    (r"\bare told\b", "write `receive`, `are notified` or `are called with`"),
    (r"\bby then\b", "name the time or the event"),
    (r"(?:^|[,;(] ?)none:(?:\s|$)", "say when the value is absent: Returns `None` if …"),
    (r"\bso many\b", "write the number, the limit or the rate"),
    (r"\bnobody\b", "name the actor, and say that it does not"),
    (r"\bsomebody\b", "name the actor"),
    (r"\bis none\b", "write `is absent`, or say what is there instead"),
    (r"\b(?:it|this|that|which) is no \w+:", "say what it is before what it is not"),
    (r"\bwhat comes?\b", "name the thing that comes"),
    (r"\bwhat came\b", "name the thing that came"),
    (r"\bwho has\b", "name the actor"),
    (r"\bwhat is\b", "write the noun"),
    (r"\bwhat it\b", "write the noun"),
    (r", say[,.)]", "write `for example`, and put the example first"),
];

/// Beginnings of function names that read as riddles.
pub(crate) const RIDDLES: [&str; 10] =
    ["what_", "who_", "whoever_", "nobody_", "nothing_", "somebody_", "that_", "it_", "there_", "one_"];

/// The longest name of a function.
pub(crate) const MAX_NAME_CHARS: usize = 60;

/// The last column of a comment.
pub(crate) const MAX_COLUMNS: usize = 100;

/// Files that are not checked, by the beginning of their path.
pub(crate) const SKIPPED: [&str; 3] = [
    // Entries of released versions keep their words.
    "CHANGELOG",
    "LICENSE",
    // `cargo xtask wit freeze` writes it.
    "wit/frozen.toml",
];

/// A finding that stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// File, from the repository's root.
    pub(crate) path: &'static str,
    /// A part of the sentence, the line or the name that is found.
    pub(crate) text: &'static str,
    /// The reason why it stays, such as a quotation of the specification.
    #[expect(dead_code, reason = "for people who read this table")]
    pub(crate) reason: &'static str,
}

/// Findings that stay. An entry that matches nothing is an error.
pub(crate) const ALLOWED: [Allowed; 0] = [];
