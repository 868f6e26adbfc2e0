use bootstrap::Tool;

/// The program, as its help and its connection name it.
pub(crate) const TOOL: Tool = Tool {
    name: "jobs",
    version: env!("CARGO_PKG_VERSION"),
    inbox_prefix: "_INBOX_operator",
};
