//! Parser for the commands in Markdown.

/// An instruction of a README, or an expected output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A block of `sh`: commands to run one after the other.
    Commands { line: usize, text: String },
    /// A block of `sh background`: a command that keeps running, in its own terminal.
    Background { line: usize, text: String },
    /// A block of `sh install`: downloads a toolchain. If it fails, the README cannot be followed
    /// here.
    Install { line: usize, text: String },
    /// A block of `output`: the output of the commands before it, or a part of it.
    Output { line: usize, text: String },
}

/// Returns the steps of a README, in order.
pub(crate) fn steps(markdown: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let text = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
        let text = text.fold(String::new(), |text, line| text + line + "\n");
        let line = number + 2;
        steps.extend(match info.trim() {
            "sh" => Some(Step::Commands { line, text }),
            "sh background" => Some(Step::Background { line, text }),
            "sh install" => Some(Step::Install { line, text }),
            "output" => Some(Step::Output { line, text }),
            _ => None,
        });
    }
    steps
}

/// Returns the commands in running text: `cargo …` and `protostub …` in backticks, with their
/// lines.
pub(crate) fn inline_commands(markdown: &str) -> Vec<(usize, String)> {
    let mut commands = Vec::new();
    let mut fenced = false;
    for (number, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let spans = line.split('`').skip(1).step_by(2);
            let is_command =
                |span: &&str| span.starts_with("cargo ") || span.starts_with("protostub ") || span.contains(" cargo ");
            commands.extend(spans.filter(is_command).map(|span| (number + 1, span.to_owned())));
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::{Step, inline_commands, steps};

    #[test]
    fn steps_finds_commands_and_outputs() {
        let markdown = "Build:\n\n```sh\ncargo build\ncargo run\n```\n\n```rust\nfn main() {}\n```\n\n```sh background\nserve\n```\n\n```output\nready\n```\n";
        let expected = [
            Step::Commands { line: 4, text: "cargo build\ncargo run\n".into() },
            Step::Background { line: 13, text: "serve\n".into() },
            Step::Output { line: 17, text: "ready\n".into() },
        ];
        assert_eq!(steps(markdown), expected);
    }

    #[test]
    fn finds_commands_in_running_text() {
        let markdown = "Say `cargo xtask test`, or `protostub run`; not `target/x`.\n```sh\n`cargo no`\n```\n";
        assert_eq!(inline_commands(markdown), [(1, "cargo xtask test".into()), (1, "protostub run".into())]);
    }
}
