//! Written by the catalogue's author.
/// Placeholder.
#[derive(Debug, Clone)]
pub struct Descriptor;
/// Placeholder.
#[derive(Debug, Clone)]
pub struct DescriptorError;
/// Placeholder.
#[derive(Debug, Clone)]
pub struct InlineSource;
/// Placeholder.
#[derive(Debug, Clone)]
pub struct SourceLocation;
