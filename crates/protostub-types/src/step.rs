use std::fmt;

/// A step of the specification "Deploy Protocol Stub". Its number is that of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Step 1.
    LoadStub = 1,
    /// Step 2.
    DiscoverStub,
    /// Step 3.
    NoneAvailable,
    /// Step 4.
    GetDescriptor,
    /// Step 5.
    Descriptor,
    /// Step 6.
    GetComponent,
    /// Step 7.
    Component,
    /// Step 8.
    RegisterStub,
    /// Step 9.
    GenerateStubUrl,
    /// Step 10.
    ListenForStatus,
    /// Step 11.
    StubUrl,
    /// Step 12.
    NewSandbox,
    /// Step 13.
    Sandbox,
    /// Step 14.
    RegisterSandbox,
    /// Step 15.
    SandboxUrl,
    /// Step 16.
    DeployComponent,
    /// Step 17.
    NewStub,
    /// Step 18.
    ComponentDeployed,
    /// Step 19.
    ListenForMessages,
    /// Step 20.
    Successful,
    /// Step 21.
    PostStatus,
    /// Step 22.
    StatusEvent,
}

impl Step {
    /// The steps in the order in which they happen: that of the specification, except for step 19.
    /// The bus listener is attached before the stub's code runs for the first time (16 to 18). A
    /// stub may post a message from its first call, and the response has to reach it.
    pub const ORDER: [Self; 22] = [
        Self::LoadStub,
        Self::DiscoverStub,
        Self::NoneAvailable,
        Self::GetDescriptor,
        Self::Descriptor,
        Self::GetComponent,
        Self::Component,
        Self::RegisterStub,
        Self::GenerateStubUrl,
        Self::ListenForStatus,
        Self::StubUrl,
        Self::NewSandbox,
        Self::Sandbox,
        Self::RegisterSandbox,
        Self::SandboxUrl,
        Self::ListenForMessages,
        Self::DeployComponent,
        Self::NewStub,
        Self::ComponentDeployed,
        Self::Successful,
        Self::PostStatus,
        Self::StatusEvent,
    ];

    /// Returns the step's number in the specification, from 1 to 22.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the step with this number in the specification.
    #[must_use]
    pub fn with_number(number: u8) -> Option<Self> {
        Self::ORDER.into_iter().find(|step| step.number() == number)
    }

    /// Returns the step's text in the specification.
    #[must_use]
    pub const fn call(self) -> &'static str {
        match self {
            Self::LoadStub => "any component → Runtime UA: loadStub( sp-domain )",
            Self::DiscoverStub => "Runtime UA → Registry: discoverStub( sp-domain )",
            Self::NoneAvailable => "Registry → Runtime UA: none available",
            Self::GetDescriptor => "Runtime UA → Catalogue: get <sp-domain>/.well-known/protostub/<name>",
            Self::Descriptor => "Catalogue → Runtime UA: protostub descriptor",
            Self::GetComponent => "Runtime UA → back-end service: get the stub's source package",
            Self::Component => "back-end service → Runtime UA: the stub's component",
            Self::RegisterStub => "Runtime UA → Registry: registerStub( sp-domain )",
            Self::GenerateStubUrl => "Registry → Registry: generateStubURL( sp-domain )",
            Self::ListenForStatus => "Registry → bus: addListener( registry, <stub>/status )",
            Self::StubUrl => "Registry → Runtime UA: RuntimeProtoStubURL",
            Self::NewSandbox => "Runtime UA → Sandbox: new( bus )",
            Self::Sandbox => "Sandbox → Runtime UA: sandbox",
            Self::RegisterSandbox => "Runtime UA → Registry: registerSandbox( sandbox, sp-domain )",
            Self::SandboxUrl => "Registry → Runtime UA: RuntimeSandboxURL",
            Self::DeployComponent => "Runtime UA → Sandbox: deployComponent( component, RuntimeProtoStubURL, configuration )",
            Self::NewStub => "Sandbox → protostub: new",
            Self::ComponentDeployed => "Sandbox → Runtime UA: component is deployed",
            Self::ListenForMessages => "Runtime UA → bus: addListener( sandbox, RuntimeProtoStubURL )",
            Self::Successful => "Runtime UA → caller: successful",
            Self::PostStatus => "protostub → bus: postMessage( protostubStatusUpdate )",
            Self::StatusEvent => "bus → Registry: onEvent( protostubStatusUpdate )",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.number(), self.call())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_has_each_step_once() {
        let mut numbers = Step::ORDER.map(Step::number);
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(1..=22));
        assert!(Step::ORDER.into_iter().all(|step| Step::with_number(step.number()) == Some(step)));
        assert_eq!((Step::with_number(0), Step::with_number(23)), (None, None));
    }
}
