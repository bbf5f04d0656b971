use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use cedar_policy::{Authorizer, Effect, EntityUid, Policy, PolicyId, PolicySet, Response, Schema, ValidationMode, Validator};
use protostub_bus::{Decision, Hop};
use protostub_types::{Address, Domain};

use crate::{
    PolicyError,
    error::{PolicyFault, in_order},
    request::{Names, Question},
};

const SCHEMA: &str = include_str!("protostub.cedarschema");
const BUILT_IN: &str = include_str!("built_in.cedar");

/// Size of the stack for Cedar, in bytes. Cedar checks how much of its stack is left, and stops if
/// that seems too little. A stub's posts are decided on the stack of a fiber, which Cedar does not
/// know, so Cedar gets a stack of its own. It is as large as a main thread's, and mostly reserved
/// rather than used. Without optimisation, Cedar's frames take many kilobytes each.
const STACK_BYTES: usize = 8 << 20;

/// Maximum nesting depth of brackets in policies. People write three or four.
const MAX_DEPTH: usize = 64;

/// Policies that have passed all checks. The [crate's documentation](crate) describes their
/// decisions and their schema.
///
/// The policies are immutable. To replace them, [load](Self::load) others and activate those
/// (`Runtime::set_policy`, [`Bus::set_policy`](protostub_bus::Bus::set_policy)). If the others have
/// a fault, these stay active.
pub struct CedarPolicy {
    file: PathBuf,
    policies: PolicySet,
    authorizer: Authorizer,
    names: Names,
    warnings: Vec<PolicyFault>,
}

impl CedarPolicy {
    /// Reads a file of policies, and checks them against the schema.
    ///
    /// # Errors
    /// If the file cannot be read, or has faults. The error lists every fault that was found, with
    /// its place.
    pub fn load(file: impl Into<PathBuf>) -> Result<Self, PolicyError> {
        let file = file.into();
        match fs::read_to_string(&file) {
            Ok(text) => Self::parse(file, &text),
            Err(source) => Err(PolicyError::Read { file, source }),
        }
    }

    /// Parses a text of policies, and checks it like [`Self::load`]. `file` is the name in errors
    /// and reasons.
    ///
    /// # Errors
    /// If the text has a fault.
    pub fn parse(file: impl Into<PathBuf>, text: &str) -> Result<Self, PolicyError> {
        let file = file.into();
        if let Some((line, column)) = too_deep(text) {
            let problem = format!("brackets are nested more than {MAX_DEPTH} deep");
            return Err(PolicyError::Faults { faults: vec![PolicyFault { file, line, column, problem, advice: None }] });
        }
        // Cedar parses expressions by recursion, without a check of the stack.
        stacker::grow(STACK_BYTES, || Self::read(file, text))
    }

    fn read(file: PathBuf, text: &str) -> Result<Self, PolicyError> {
        let one = |found: &dyn miette::Diagnostic| PolicyError::Faults { faults: vec![PolicyFault::new(&file, text, found)] };
        let own = match text.parse::<PolicySet>() {
            Ok(policies) => policies,
            Err(errors) => return Err(PolicyError::Faults { faults: in_order(&file, text, errors.iter()) }),
        };
        if let Some(template) = own.templates().next() {
            let problem = format!(
                "policy {} is a template: write an address or a domain in place of `?principal` and `?resource`",
                number(template.id())
            );
            return Err(PolicyError::Faults { faults: vec![PolicyFault { file, line: 0, column: 0, problem, advice: None }] });
        }
        let (schema, _warnings) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| one(&error))?;
        let found = Validator::new(schema).validate(&own, ValidationMode::Strict);
        let faults = in_order(&file, text, found.validation_errors());
        if !faults.is_empty() {
            return Err(PolicyError::Faults { faults });
        }
        let faults = misspelt(&file, &own);
        if !faults.is_empty() {
            return Err(PolicyError::Faults { faults });
        }
        let warnings = in_order(&file, text, found.validation_warnings());
        let mut policies = own;
        let built_in: PolicySet = BUILT_IN.parse().map_err(|error: cedar_policy::ParseErrors| one(&error))?;
        for (index, policy) in built_in.policies().enumerate() {
            policies.add(policy.new_id(PolicyId::new(format!("built in {index}")))).map_err(|error| one(&error))?;
        }
        let names = Names::new().map_err(|error| one(&*error))?;
        Ok(Self { file, policies, authorizer: Authorizer::new(), names, warnings })
    }

    /// Returns the file that the policies were read from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the warnings: probable mistakes, for example policies that never hold.
    #[must_use]
    pub fn warnings(&self) -> &[PolicyFault] {
        &self.warnings
    }

    /// Returns the reason why a message is refused, for people.
    fn reason(&self, response: &Response, hop: &Hop<'_>) -> String {
        let mut failed = response.diagnostics().errors().map(|error| format!("a policy cannot be evaluated: {error}"));
        if let Some(failed) = failed.next() {
            return failed;
        }
        let forbidding = response.diagnostics().reason().filter_map(|id| self.policies.policy(id));
        let mut reasons: Vec<_> =
            forbidding.filter(|policy| policy.effect() == Effect::Forbid).map(|policy| self.told(policy)).collect();
        if reasons.is_empty() {
            let message = hop.message;
            return format!("no policy permits `{}` from {} to {}", message.kind, message.from, message.to);
        }
        reasons.sort();
        reasons.dedup();
        reasons.join("; ")
    }

    fn told(&self, policy: &Policy) -> String {
        if let Some(reason) = policy.annotation("reason") {
            return reason.to_owned();
        }
        match policy.annotation("id") {
            Some(name) => format!("the policy `{name}` forbids the message"),
            None => {
                let file = self.file.file_name().unwrap_or(self.file.as_os_str());
                format!("policy {} of {} forbids the message", number(policy.id()), Path::new(file).display())
            }
        }
    }
}

/// Finds domains and addresses that are not in their normalised form. A rule about
/// `Domain::"SP1.example"` would never hold: every message has `sp1.example`.
fn misspelt(file: &Path, policies: &PolicySet) -> Vec<PolicyFault> {
    let normalised = |entity: &EntityUid| {
        let text = entity.id().unescaped();
        match entity.type_name().to_string().as_str() {
            "Domain" | "Runtime" => Domain::parse(text).ok().map(String::from),
            "Hyperty" | "Stub" | "Address" => Address::parse(text).ok().map(|address| address.as_str().to_owned()),
            _ => None,
        }
    };
    let mut faults = Vec::new();
    for policy in policies.policies() {
        for entity in policy.entity_literals() {
            let Some(normalised) = normalised(&entity).filter(|normalised| normalised != entity.id().unescaped()) else {
                continue;
            };
            let problem = format!("policy {} names {entity}, which no message has in this spelling", number(policy.id()));
            let advice = Some(format!("write `{}::\"{normalised}\"`", entity.type_name()));
            faults.push(PolicyFault { file: file.to_owned(), line: 0, column: 0, problem, advice });
        }
    }
    faults.sort_by(|one, other| one.problem.cmp(&other.problem));
    faults.dedup();
    faults
}

/// Returns the line and the column, from 1, where brackets are nested too deep.
fn too_deep(text: &str) -> Option<(usize, usize)> {
    let mut depth = 0_usize;
    let mut quoted = false;
    for (index, line) in text.lines().enumerate() {
        let mut characters = line.chars().enumerate().peekable();
        while let Some((column, character)) = characters.next() {
            match character {
                '"' => quoted = !quoted,
                // An escaped character does not end the text.
                '\\' if quoted => {
                    characters.next();
                }
                _ if quoted => {}
                '/' if characters.peek().is_some_and(|(_, next)| *next == '/') => break,
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > MAX_DEPTH {
                return Some((index + 1, column + 1));
            }
        }
    }
    None
}

/// Returns the number of a policy, from 1, as people count. Cedar names policies `policy0`,
/// `policy1` and so on, in their order.
fn number(id: &PolicyId) -> String {
    let text = id.to_string();
    let index = text.strip_prefix("policy").and_then(|index| index.parse::<usize>().ok());
    index.map_or(text, |index| (index + 1).to_string())
}

impl protostub_bus::Policy for CedarPolicy {
    fn decide(&self, hop: &Hop<'_>) -> Decision {
        stacker::grow(STACK_BYTES, || self.judge(hop))
    }
}

impl CedarPolicy {
    fn judge(&self, hop: &Hop<'_>) -> Decision {
        let question = match Question::about(hop, &self.names) {
            Ok(question) => question,
            Err(error) => return Decision::Refuse(format!("the policies cannot be evaluated for the message: {error}")),
        };
        let response = self.authorizer.is_authorized(&question.request, &self.policies, &question.entities);
        let failed = response.diagnostics().errors().next().is_some();
        match response.decision() {
            cedar_policy::Decision::Allow if !failed => Decision::Permit,
            _ => Decision::Refuse(self.reason(&response, hop)),
        }
    }
}

impl fmt::Debug for CedarPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CedarPolicy").field("file", &self.file).finish_non_exhaustive()
    }
}
